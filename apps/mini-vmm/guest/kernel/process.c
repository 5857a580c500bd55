/*
 * Processes. Each has its own page tables, which the accelerator walks too once the process is bound: there is no other
 * map and nothing is pinned.
 */

#include "process.h"

#include "apic.h"
#include "dsa_driver.h"
#include "memory.h"
#include "trap.h"
#include "vtd.h"

#define KERNEL_STACK 8192

#define ELF_LOAD 1
#define ELF_EXECUTE 1
#define ELF_WRITE 2

struct elf_header {
  u8 ident[16];
  u16 type, machine;
  u32 version;
  u64 entry, program_offset, section_offset;
  u32 flags;
  u16 header_bytes, program_bytes, program_count;
};

struct elf_program {
  u32 type, flags;
  u64 offset, address, physical, file_bytes, memory_bytes, align;
};

extern const u8 user_image[];
void switch_stack(u64 *old_stack, u64 new_stack);

struct process *current;
u32 processes_alive;
bool processes_failed;

static struct process processes[MAX_PROCESSES];
static u8 stacks[MAX_PROCESSES][KERNEL_STACK] __attribute__((aligned(16)));
static u64 idle_stack;

static struct region *find_region(struct process *process, u64 address) {
  for (u32 i = 0; i < MAX_REGIONS; i++) {
    struct region *region = &process->regions[i];
    if (address >= region->start && address < region->end) return region;
  }
  return NULL;
}

static struct region *add_region(struct process *process, u64 start, u64 end, u32 access) {
  for (u32 i = 0; i < MAX_REGIONS; i++) {
    struct region *region = &process->regions[i];
    if (region->end) continue;
    *region = (struct region){.start = start, .end = end, .access = access};
    return region;
  }
  return NULL;
}

static u64 page_bits(u32 access) {
  u64 bits = PTE_PRESENT | PTE_USER;
  if (access & REGION_WRITE) bits |= PTE_WRITABLE;
  if (!(access & REGION_EXECUTE) && vtd_no_execute) bits |= PTE_NO_EXECUTE;
  return bits;
}

bool process_fault(struct process *process, u64 address, u32 access) {
  struct region *region = find_region(process, address);
  if (!region || !(region->access & access)) return false;
  u64 page = address & PAGE_MASK;
  u64 *entry = page_entry(process->pml4, page, true);
  if (!entry) return false;
  if (*entry & PTE_PRESENT) return true;
  u64 frame = frame_allocate();
  if (!frame) return false;
  /* The part of the page that comes from the image. */
  u64 image_end = region->start + region->image_bytes;
  if (page < image_end) {
    u64 bytes = image_end - page < PAGE_SIZE ? image_end - page : PAGE_SIZE;
    memcpy(to_virtual(frame), region->image + (page - region->start), bytes);
  }
  *(volatile u64 *)entry = frame | page_bits(region->access);
  return true;
}

bool process_may_access(const struct process *process, u64 address, u64 bytes, u32 access) {
  if (address + bytes < address) return false;
  while (bytes > 0) {
    const struct region *region = find_region((struct process *)process, address);
    if (!region || !(region->access & access)) return false;
    u64 here = region->end - address;
    if (bytes <= here) return true;
    address += here;
    bytes -= here;
  }
  return true;
}

u64 process_map(struct process *process, u64 bytes) {
  u64 size = (bytes + PAGE_SIZE - 1) & PAGE_MASK;
  if (size < bytes || size == 0 || size > MMAP_END - MMAP_BASE) return 0;
  /* First fit, with a page on both sides that stays empty. */
  u64 start = MMAP_BASE;
  for (u32 i = 0; i < MAX_REGIONS; i++) {
    const struct region *region = &process->regions[i];
    if (!region->end || start >= region->end + PAGE_SIZE || start + size + PAGE_SIZE <= region->start) continue;
    start = region->end + PAGE_SIZE;
    i = ~0u; /* look at all again */
  }
  if (start + size > MMAP_END || !add_region(process, start, start + size, REGION_READ | REGION_WRITE)) return 0;
  return start;
}

i64 process_unmap(struct process *process, u64 address) {
  struct region *region = find_region(process, address);
  if (!region || region->start != address || address < MMAP_BASE || address >= MMAP_END) return ERROR_INVALID;
  u64 start = region->start, end = region->end;
  /* From here on no fault brings a page back. */
  *region = (struct region){0};
  for (u64 page = start; page < end; page += PAGE_SIZE) {
    u64 *entry = page_entry(process->pml4, page, false);
    if (!entry || !(*entry & PTE_PRESENT)) continue;
    /* The device may set the accessed and dirty bits at any time. */
    __atomic_fetch_and(entry, ~PTE_PRESENT, __ATOMIC_SEQ_CST);
    invalidate_page(page);
  }
  if (process->pasid) {
    report("unmap pid=%u address=0x%lx bytes=%lu", process->pid, start, end - start);
    if (!(boot_info.breakage & BREAK_UNMAP_INVALIDATION)) vtd_invalidate(process->pasid, start, end - start);
  }
  /* Nobody reaches the frames now. */
  for (u64 page = start; page < end; page += PAGE_SIZE) {
    u64 *entry = page_entry(process->pml4, page, false);
    if (!entry || !*entry) continue;
    u64 frame = *entry & PTE_ADDRESS;
    *entry = 0;
    frame_free(frame);
  }
  return 0;
}

/* What belongs to the process and not to its memory, as the processor must see it while it runs. */
static void load_state(struct process *process) {
  set_kernel_stack((u64)stacks[process->pid - 1] + KERNEL_STACK);
  write_cr3(process->cr3);
  if (dsa_enqcmd) write_msr(MSR_PASID, process->pasid && process->shared_queue ? process->pasid | MSR_PASID_VALID : 0);
}

i64 process_bind(struct process *process) {
  if (process->pasid) return process->pasid;
  u32 pasid = 1;
  while (pasid <= vtd_last_pasid && process_of_pasid(pasid)) pasid++;
  if (pasid > vtd_last_pasid) return ERROR_BUSY;
  process->pasid = pasid;
  process->last_pasid = pasid;
  vtd_bind(process->pid, pasid, process->cr3);
  return pasid;
}

struct process *process_of_pasid(u32 pasid) {
  for (u32 i = 0; i < MAX_PROCESSES; i++) {
    if (processes[i].pasid == pasid && pasid != 0) return &processes[i];
  }
  return NULL;
}

i64 process_open_queue(struct process *process, u32 kind) {
  u32 queue = 0;
  if (!process->pasid || kind > QUEUE_DEDICATED) return ERROR_INVALID;
  if (kind == QUEUE_SHARED) {
    if (!dsa_enqcmd) return ERROR_DEVICE;
    process->shared_queue = true;
    load_state(process);
  } else if (process->dedicated_queue) {
    queue = process->dedicated_queue;
  } else {
    queue = dsa_lease_queue(process->pasid);
    if (!queue) return ERROR_BUSY;
    process->dedicated_queue = queue;
  }
  u64 address = PORTAL_BASE + kind * PAGE_SIZE;
  u64 *entry = page_entry(process->pml4, address, true);
  if (!entry) return ERROR_MEMORY;
  *entry = dsa_portal(queue) | PTE_PRESENT | PTE_WRITABLE | PTE_USER | PTE_UNCACHED |
           (vtd_no_execute ? PTE_NO_EXECUTE : 0);
  return (i64)address;
}

i64 process_close_queue(struct process *process, u32 kind) {
  if (kind > QUEUE_DEDICATED) return ERROR_INVALID;
  u64 address = PORTAL_BASE + kind * PAGE_SIZE;
  u64 *entry = page_entry(process->pml4, address, false);
  if (!entry || !*entry) return ERROR_INVALID;
  *entry = 0;
  invalidate_page(address);
  if (kind == QUEUE_SHARED) {
    process->shared_queue = false;
    load_state(process);
  } else {
    dsa_return_queue(process->dedicated_queue);
    process->dedicated_queue = 0;
  }
  return 0;
}

void process_create(u32 pid) {
  struct process *process = &processes[pid - 1];
  process->pid = pid;
  process->pml4 = page_table_create();
  if (!process->pml4) panic("no memory for process %u", pid);
  process->cr3 = to_physical(process->pml4);
  process->job = (struct job){
      .bytes = boot_info.bytes_per_process,
      .seed = boot_info.seed * MAX_PROCESSES + pid,
      .submit = boot_info.submit,
      .exit_in_flight = pid & 1,
      .dedicated_entries = dsa_dedicated_entries(),
  };
  const struct elf_header *elf = (const struct elf_header *)user_image;
  const struct elf_program *program = (const struct elf_program *)(user_image + elf->program_offset);
  for (u32 i = 0; i < elf->program_count; i++) {
    if (program[i].type != ELF_LOAD || program[i].memory_bytes == 0) continue;
    u32 access = REGION_READ;
    if (program[i].flags & ELF_WRITE) access |= REGION_WRITE;
    if (program[i].flags & ELF_EXECUTE) access |= REGION_EXECUTE;
    u64 end = (program[i].address + program[i].memory_bytes + PAGE_SIZE - 1) & PAGE_MASK;
    struct region *region = add_region(process, program[i].address, end, access);
    region->image = user_image + program[i].offset;
    region->image_bytes = program[i].file_bytes;
  }
  add_region(process, STACK_TOP - STACK_BYTES, STACK_TOP, REGION_READ | REGION_WRITE);

  /* Its first switch_stack returns to trap_return, which goes to the program's entry. */
  struct trap_frame *frame = (struct trap_frame *)(stacks[pid - 1] + KERNEL_STACK) - 1;
  *frame = (struct trap_frame){
      .rip = elf->entry, .cs = USER_CODE, .rflags = RFLAGS_INTERRUPTS | 2, .rsp = STACK_TOP, .ss = USER_DATA};
  u64 *saved = (u64 *)frame - 7;
  saved[6] = (u64)trap_return;
  process->stack = (u64)saved;
  process->state = PROCESS_READY;
  processes_alive++;
}

static void switch_to(struct process *next) {
  struct process *previous = current;
  if (next == previous) return;
  current = next;
  if (next) load_state(next);
  else write_cr3(to_physical(kernel_pml4));
  switch_stack(previous ? &previous->stack : &idle_stack, next ? next->stack : idle_stack);
}

void schedule(void) {
  u32 first = current ? current->pid : 0;
  for (u32 i = 0; i < MAX_PROCESSES; i++) {
    struct process *process = &processes[(first + i) % MAX_PROCESSES];
    bool due = (int)(ticks - process->wake_tick) >= 0;
    if (process->state == PROCESS_SLEEPING && due) process->state = PROCESS_READY;
    if (process->state == PROCESS_READY) {
      switch_to(process);
      return;
    }
  }
  switch_to(NULL);
}

void process_run_all(void) {
  while (processes_alive) {
    schedule();
    if (processes_alive) wait_for_interrupt();
  }
}

void process_wait_tick(void) {
  current->wake_tick = ticks + 1;
  current->state = PROCESS_SLEEPING;
  schedule();
}

/* Ends every way from the device to the process's memory; only then may the memory go. */
static void unbind(struct process *process) {
  u32 pasid = process->pasid;
  u64 faults = vtd_faults;
  report("exit pid=%u pasid=%u submitted=%lu completed=%lu", process->pid, pasid, process->report.submitted,
         process->report.completed);
  /* Nothing new is submitted: the portals leave the page table, the PASID the processor. */
  process->shared_queue = false;
  load_state(process);
  for (u32 kind = QUEUE_SHARED; kind <= QUEUE_DEDICATED; kind++) {
    u64 *entry = page_entry(process->pml4, PORTAL_BASE + kind * PAGE_SIZE, false);
    if (entry) *entry = 0;
    invalidate_page(PORTAL_BASE + kind * PAGE_SIZE);
  }
  /* Nothing under way gets through, and page requests of the PASID find nobody. */
  process->pasid = 0;
  vtd_unbind(pasid);
  vtd_drain(pasid);
  /* The device is done with the PASID too, before another process gets it. */
  if (process->dedicated_queue) dsa_return_queue(process->dedicated_queue);
  process->dedicated_queue = 0;
  dsa_drain_pasid(pasid);
  vtd_drain(pasid);
  vtd_report_faults();
  dsa_report_errors();
  console("[%u] gone with %lu descriptors in flight: PASID %u drained, %lu DMA faults recorded", process->pid,
          process->report.submitted - process->report.completed, pasid, vtd_faults - faults);
}

void process_exit(void) {
  struct process *process = current;
  const struct report *result = &process->report;
  if (process->pasid) unbind(process);
  write_cr3(to_physical(kernel_pml4));
  page_table_destroy(process->pml4);
  report("process pid=%u pasid=%u bytes=%lu verified=%lu page_requests=%lu faults_reported=%u timeouts=%u stale=%u "
         "mismatches=%u",
         process->pid, process->last_pasid, process->job.bytes, result->verified, process->page_requests,
         result->faults_reported, result->timeouts, result->stale, result->mismatches);
  if (result->verified != process->job.bytes || result->faults_reported != BAD_REQUESTS || result->timeouts ||
      result->stale || result->mismatches)
    processes_failed = true;
  process->state = PROCESS_GONE;
  processes_alive--;
  schedule();
  __builtin_unreachable();
}
