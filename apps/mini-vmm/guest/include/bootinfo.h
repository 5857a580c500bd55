/*
 * The contract between the guest and what boots it, a VMM or a bare machine.
 *
 * Image: an ELF64 executable. Each PT_LOAD segment goes to p_paddr, the rest up to p_memsz is zero.
 *
 * Entry, at e_entry (a physical address): 64-bit mode, ring 0, interrupts off, CR3 with an identity map of the low
 * 16 MiB or more, RDI = physical address of a struct boot_info in memory below 1 MiB, on one processor with APIC id 0.
 *
 * Machine: RAM from 0, at least 16 MiB + 4 MiB for each process; ECAM 0xe0000000; I/O APIC 0xfec00000; VT-d registers
 * 0xfed90000; local APIC 0xfee00000; 32-bit BARs in 0xc0000000..0xdfffffff, 64-bit BARs from 0x8000000000. A BAR that
 * is zero gets an address there, another one is kept. COM1 (port 0x3f8) is the console, COM2 (port 0x2f8) takes the
 * report; both are polled.
 *
 * The end: a 32-bit write of an EXIT_ value to port 0xf4. Every wait of the guest is bounded, so the end always comes.
 *
 * Report: one fact on a line, a word and then key=value pairs. Counts are decimal, addresses hexadecimal with 0x. Keys
 * may be added at the end of a line.
 *
 *   entry pasid= address= cr3=
 *        A PASID table entry has been written at guest physical `address`, with `cr3` as its first stage. Its cache has
 *        not been flushed yet: the flush comes after this line, and the process's first submission after that.
 *   unmap pid= address= bytes=
 *        A region of a bound process has left its page table; the invalidation comes after this line.
 *   exit pid= pasid= submitted= completed=
 *        A process ends now, with `submitted` - `completed` of its descriptors in flight. Teardown comes after this.
 *   fault reason= rid= pasid= address= write=
 *        A fault record of the remapping unit; rid is decimal, pasid -1 when the request had none.
 *   error code= operation= pasid= address=
 *        A software error of the accelerator, a completion record that it could not write for instance.
 *   process pid= pasid= bytes= verified= page_requests= faults_reported= timeouts= stale= mismatches=
 *        A process is gone. bytes: to move; verified: moved and right by every check; page_requests: groups that the
 *        kernel answered; faults_reported: of its BAD_REQUESTS deliberate bad requests, those that ended in a
 *        completion record with the right status and address; timeouts: descriptors never taken or never completed;
 *        stale: bad requests that succeeded; mismatches: failed checks of data or status.
 *   done ok= processes= page_requests= page_responses= dma_faults= device_errors= poison= ticks=
 *        The last line. page_requests: groups taken from the queue, page_responses: groups answered; dma_faults: fault
 *        records; device_errors: software errors of the accelerator; poison: free frames that something wrote to.
 *   panic text=
 *        The kernel gave up; the text goes to the end of the line. No `done` follows.
 */

#pragma once

#include "types.h"

#define BOOT_INFO_MAGIC 0x49564d47u /* "GMVI" */
#define BOOT_INFO_VERSION 1

/* boot_info.submit */
#define SUBMIT_BOTH 0 /* in turn */
#define SUBMIT_ENQCMD 1
#define SUBMIT_MOVDIR64B 2

/*
 * boot_info.breakage: what the kernel does wrong on purpose. The process then reports what it saw and `ok` is 0 unless
 * nothing came of it.
 */
#define BREAK_PASID_CACHE_FLUSH (1u << 0) /* no PASID-cache invalidation after an entry became present */
#define BREAK_UNMAP_INVALIDATION (1u << 1) /* no IOTLB and device-TLB invalidation in munmap */
#define BREAK_PASID_ENTRY_RESERVED (1u << 2) /* a reserved bit (bit 11) is set in PASID entries */

#define MAX_PROCESSES 16
#define BAD_REQUESTS 6

#define EXIT_OK 0
#define EXIT_FAILED 1 /* a check of the report failed */
#define EXIT_PANIC 2

struct boot_info {
  u32 magic;
  u32 version;
  u64 ram_bytes;
  u32 processes; /* 1..MAX_PROCESSES */
  u32 submit;
  u64 bytes_per_process; /* whole pages */
  u64 seed;
  u32 breakage;
  u32 timer_hz; /* local APIC timer counts in a second, before division */
};
