/* The kernel's start and end. */

#include "apic.h"
#include "dsa_driver.h"
#include "iopf.h"
#include "kernel.h"
#include "memory.h"
#include "process.h"
#include "trap.h"
#include "vtd.h"

struct boot_info boot_info;

bool wait_for(const volatile u32 *word, u32 mask, u32 value, u32 limit) {
  for (u32 tries = 0; tries < 1024; tries++) {
    if ((*word & mask) == value) return true;
    cpu_pause();
  }
  u32 start = ticks;
  while (ticks - start <= limit) {
    if ((*word & mask) == value) return true;
    wait_for_interrupt();
  }
  return (*word & mask) == value;
}

static void take_boot_info(u64 address) {
  serial_init();
  const struct boot_info *info = to_virtual(address);
  if (info->magic != BOOT_INFO_MAGIC || info->version != BOOT_INFO_VERSION) panic("no boot information");
  boot_info = *info;
  if (boot_info.processes < 1 || boot_info.processes > MAX_PROCESSES || boot_info.submit > SUBMIT_MOVDIR64B ||
      boot_info.bytes_per_process % PAGE_SIZE || boot_info.timer_hz < TICKS_PER_SECOND)
    panic("the boot information makes no sense");
}

void kernel_main(u64 info) {
  take_boot_info(info);
  memory_init(boot_info.ram_bytes);
  trap_init();
  apic_init(boot_info.timer_hz);
  console("%lu MiB of memory, %u process%s, %lu KiB each", boot_info.ram_bytes >> 20, boot_info.processes,
          boot_info.processes == 1 ? "" : "es", boot_info.bytes_per_process >> 10);

  u16 rid;
  u32 pasid_bits;
  dsa_find(&rid, &pasid_bits);
  vtd_init(rid, pasid_bits);
  dsa_init();

  for (u32 pid = 1; pid <= boot_info.processes; pid++) process_create(pid);
  process_run_all();

  iopf_serve();
  vtd_report_faults();
  dsa_report_errors();
  u64 poison = frames_damaged();
  bool ok = !processes_failed && poison == 0 && iopf_groups == iopf_responses;
  console("%lu page requests answered, %lu DMA faults recorded, %lu free frames damaged", iopf_responses, vtd_faults,
          poison);
  report("done ok=%u processes=%u page_requests=%lu page_responses=%lu dma_faults=%lu device_errors=%lu poison=%lu "
         "ticks=%u",
         ok, boot_info.processes, iopf_groups, iopf_responses, vtd_faults, dsa_errors, poison, ticks);
  power_off(ok ? EXIT_OK : EXIT_FAILED);
}
