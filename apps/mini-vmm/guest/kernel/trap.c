/* Segments, the interrupt table, and what each trap does. */

#include "trap.h"

#include "apic.h"
#include "dsa_driver.h"
#include "iopf.h"
#include "kernel.h"
#include "layout.h"
#include "process.h"
#include "vtd.h"

#define PAGE_FAULT 14
#define PAGE_FAULT_PRESENT (1u << 0)
#define PAGE_FAULT_WRITE (1u << 1)
#define PAGE_FAULT_FETCH (1u << 4)

extern u8 trap_entries[256][16];
extern u64 kernel_stack;

struct table_register {
  u16 limit;
  u64 base;
} __attribute__((packed));

static struct {
  u32 reserved0;
  u64 rsp[3];
  u64 reserved1;
  u64 ist[7];
  u64 reserved2;
  u16 reserved3;
  u16 io_map;
} __attribute__((packed)) task_state;

static u64 gdt[7] = {
    0,
    0x00af9b000000ffff, /* kernel code */
    0x00cf93000000ffff, /* kernel data */
    0x00cff3000000ffff, /* user data */
    0x00affb000000ffff, /* user code */
};

static struct {
  u64 low, high;
} idt[256];

void trap_init(void) {
  u64 task = (u64)&task_state;
  gdt[5] = (sizeof(task_state) - 1) | (task & 0xffffff) << 16 | 0x89ul << 40 | (task >> 24 & 0xff) << 56;
  gdt[6] = task >> 32;
  task_state.io_map = sizeof(task_state);
  for (u32 i = 0; i < 256; i++) {
    u64 entry = (u64)trap_entries[i];
    idt[i].low = (entry & 0xffff) | KERNEL_CODE << 16 | 0x8eul << 40 | (entry >> 16 & 0xffff) << 48;
    idt[i].high = entry >> 32;
  }
  struct table_register gdtr = {sizeof(gdt) - 1, (u64)gdt};
  struct table_register idtr = {sizeof(idt) - 1, (u64)idt};
  asm volatile(
      "lgdt %0\n\t"
      "lidt %1\n\t"
      "mov %w2, %%ss\n\t"
      "mov %w2, %%ds\n\t"
      "mov %w2, %%es\n\t"
      "pushq %3\n\t"
      "leaq 1f(%%rip), %%rax\n\t"
      "pushq %%rax\n\t"
      "lretq\n"
      "1:\tltr %w4"
      :
      : "m"(gdtr), "m"(idtr), "r"(KERNEL_DATA), "i"(KERNEL_CODE), "r"(0x28)
      : "rax", "memory");
  write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_SYSCALL | EFER_NO_EXECUTE);
  write_msr(MSR_STAR, (u64)KERNEL_DATA << 48 | (u64)KERNEL_CODE << 32);
  write_msr(MSR_LSTAR, (u64)system_call_entry);
  write_msr(MSR_FMASK, 0x40700); /* alignment check, direction, interrupts, trap */
  write_cr0(read_cr0() | CR0_WRITE_PROTECT);
}

void set_kernel_stack(u64 top) {
  task_state.rsp[0] = top;
  kernel_stack = top;
}

static void exception(struct trap_frame *frame) {
  u64 address = read_cr2();
  bool user = (frame->cs & 3) == 3;
  if (frame->vector == PAGE_FAULT && current && address < USER_END) {
    u32 access = frame->error & PAGE_FAULT_WRITE ? REGION_WRITE : REGION_READ;
    if (frame->error & PAGE_FAULT_FETCH) access = REGION_EXECUTE;
    /* A present page that faults lacks a permission, and tables never have less than the region. */
    if (!(frame->error & PAGE_FAULT_PRESENT) && process_fault(current, address, access)) return;
  }
  if (user) {
    console("[%u] killed: exception %lu, error 0x%lx, at 0x%lx, address 0x%lx", current->pid, frame->vector,
            frame->error, frame->rip, address);
    current->report.mismatches++;
    process_exit();
  }
  panic("exception %lu, error 0x%lx, at 0x%lx, address 0x%lx", frame->vector, frame->error, frame->rip, address);
}

/* Called by trap.S with interrupts off. */
void trap(struct trap_frame *frame) {
  if (frame->vector < 32) {
    exception(frame);
    return;
  }
  if (frame->vector == VECTOR_SPURIOUS) return;
  apic_end_of_interrupt();
  switch (frame->vector) {
    case VECTOR_TICK:
      ticks++;
      /* The kernel is not preempted. */
      if ((frame->cs & 3) == 3) schedule();
      break;
    case VECTOR_PAGE_REQUEST:
      iopf_serve();
      break;
    case VECTOR_DMA_FAULT:
      vtd_report_faults();
      break;
    case VECTOR_DSA:
      dsa_report_errors();
      break;
    default:
      panic("unexpected interrupt 0x%lx", frame->vector);
  }
}
