/*
 * The Data Streaming Accelerator (Intel DSA Architecture Specification, order 341204, revision 1.1, chapter 9): one
 * group with all engines and all queues.
 */

#include "dsa_driver.h"

#include "memory.h"
#include "pci.h"
#include "trap.h"

#define DSA_VENDOR 0x8086
#define DSA_DEVICE 0x0b25

#define GENERAL_CAPABILITIES 0x10
#define QUEUE_CAPABILITIES 0x20
#define GROUP_CAPABILITIES 0x30
#define ENGINE_CAPABILITIES 0x38
#define TABLE_OFFSETS 0x60
#define GENERAL_CONTROL 0x88
#define INTERRUPT_CAUSE 0x98
#define COMMAND 0xa0
#define COMMAND_STATUS 0xa8
#define SOFTWARE_ERROR 0xc0

#define CONTROL_ERROR_INTERRUPT (1u << 0)
#define STATUS_ACTIVE (1u << 31)
#define ERROR_VALID (1u << 0)
#define ERROR_OVERFLOW (1u << 1)

#define ENABLE_DEVICE 1
#define RESET_DEVICE 5
#define ENABLE_QUEUE 6
#define DISABLE_QUEUES 7
#define DRAIN_PASID 11
#define COMMAND_TICKS 500

#define QUEUE_DEDICATED_MODE (1u << 0)
#define QUEUE_BLOCK_ON_FAULT (1u << 1)
#define QUEUE_PRIORITY (10u << 4)
#define QUEUE_PASID(pasid) ((pasid) << 8)
#define QUEUE_PASID_ENABLE (1u << 28)
#define QUEUE_COMMON (QUEUE_BLOCK_ON_FAULT | QUEUE_PRIORITY | QUEUE_PASID_ENABLE)

#define GROUP_ENGINES 0x20
#define GROUP_FLAGS 0x28
#define GROUP_BYTES 0x40

#define PORTAL_BYTES (4 * PAGE_SIZE)
#define PORTAL_LIMITED PAGE_SIZE /* for programs: a shared queue keeps the rest of its entries for the kernel */
#define MAX_QUEUES 16

bool dsa_enqcmd;
u64 dsa_errors;

static struct pci_function function;
static volatile u8 *registers;
static volatile u8 *queue_config;
static u32 queue_config_bytes;
static u32 queues;
static u32 shared_entries, dedicated_entries;
static bool leased[MAX_QUEUES];

/* Runs a command to its end. Gives its error code, or 0x100 when it does not end. */
static u32 command(u32 code, u32 operand) {
  write32(registers + COMMAND, code << 20 | operand);
  if (!wait_for((volatile u32 *)(registers + COMMAND_STATUS), STATUS_ACTIVE, 0, COMMAND_TICKS)) return 0x100;
  return read32(registers + COMMAND_STATUS) & 0xff;
}

static void must(u32 code, u32 operand) {
  u32 error = command(code, operand);
  if (error) panic("dsa: command %u with operand %u ended with 0x%x", code, operand, error);
}

/* For commands to a device that may be in trouble: what it says is worth a line and no more. */
static void attempt(u32 code, u32 operand) {
  u32 error = command(code, operand);
  if (error) console("dsa: command %u with operand %u ended with 0x%x", code, operand, error);
}

void dsa_find(u16 *rid, u32 *pasid_bits) {
  u32 features[4];
  cpuid(7, 0, features);
  dsa_enqcmd = features[2] >> 29 & 1;
  if (!(features[2] >> 28 & 1)) panic("the processor has no MOVDIR64B");
  if (!pci_find(DSA_VENDOR, DSA_DEVICE, &function)) panic("no accelerator %x:%x", DSA_VENDOR, DSA_DEVICE);
  *pasid_bits = pci_enable_shared_addressing(&function);
  if (!*pasid_bits) panic("the accelerator lacks PASID, ATS or PRI");
  *rid = function.rid;
  console("pci %x:%x.%u: accelerator, registers 0x%lx, portals 0x%lx", function.rid >> 8, function.rid >> 3 & 31,
          function.rid & 7, function.bars[0], function.bars[2]);
}

static volatile u8 *config_of(u32 queue) {
  return queue_config + queue * queue_config_bytes;
}

void dsa_init(void) {
  registers = map_device(function.bars[0], function.bar_sizes[0]);
  must(RESET_DEVICE, 0);

  u64 general = read64(registers + GENERAL_CAPABILITIES);
  u64 capabilities = read64(registers + QUEUE_CAPABILITIES);
  u32 groups = read64(registers + GROUP_CAPABILITIES) & 0xff;
  u32 read_buffers = read64(registers + GROUP_CAPABILITIES) >> 8 & 0xff;
  u32 engines = read64(registers + ENGINE_CAPABILITIES) & 0xff;
  u64 offsets = read64(registers + TABLE_OFFSETS);
  volatile u8 *group = registers + (offsets & 0xffff) * 0x100;
  queue_config = registers + (offsets >> 16 & 0xffff) * 0x100;
  queue_config_bytes = 32u << (capabilities >> 24 & 15);
  queues = capabilities >> 16 & 0xff;
  if (queues > MAX_QUEUES) queues = MAX_QUEUES;
  if (!groups || !engines || queues < 2) panic("dsa: %u groups, %u engines, %u queues", groups, engines, queues);

  u32 entries = capabilities & 0xffff;
  shared_entries = entries / 4;
  dedicated_entries = (entries - shared_entries) / (queues - 1);
  for (u32 queue = 0; queue < queues; queue++) {
    volatile u8 *config = config_of(queue);
    bool shared = queue == 0;
    write32(config + 0, shared ? shared_entries : dedicated_entries);
    write32(config + 4, shared ? shared_entries - shared_entries / 4 : 0);
    write32(config + 8, (shared ? 0 : QUEUE_DEDICATED_MODE) | QUEUE_COMMON);
    write32(config + 12, general >> 16 & 0x1ff); /* the largest transfer and batch that the device has */
  }
  write64(group, (1ul << queues) - 1);
  write64(group + GROUP_ENGINES, (1ul << engines) - 1);
  write64(group + GROUP_FLAGS, (u64)read_buffers << 20);
  for (u32 other = 1; other < groups; other++) {
    write64(group + other * GROUP_BYTES, 0);
    write64(group + other * GROUP_BYTES + GROUP_ENGINES, 0);
  }

  if (!pci_route_interrupt(&function, 0, VECTOR_DSA)) panic("the accelerator has no MSI-X");
  write32(registers + GENERAL_CONTROL, CONTROL_ERROR_INTERRUPT);
  must(ENABLE_DEVICE, 0);
  must(ENABLE_QUEUE, 0);
  console("dsa: %u engines, a shared queue of %u, %u dedicated queues of %u%s", engines, shared_entries, queues - 1,
          dedicated_entries, dsa_enqcmd ? "" : ", no ENQCMD");
}

u64 dsa_portal(u32 queue) {
  return function.bars[2] + queue * PORTAL_BYTES + PORTAL_LIMITED;
}

u32 dsa_dedicated_entries(void) {
  return dedicated_entries;
}

u32 dsa_lease_queue(u32 pasid) {
  for (u32 queue = 1; queue < queues; queue++) {
    if (leased[queue]) continue;
    write32(config_of(queue) + 8, QUEUE_DEDICATED_MODE | QUEUE_COMMON | QUEUE_PASID(pasid));
    if (command(ENABLE_QUEUE, queue)) continue;
    leased[queue] = true;
    return queue;
  }
  return 0;
}

void dsa_return_queue(u32 queue) {
  attempt(DISABLE_QUEUES, 1u << queue);
  leased[queue] = false;
}

void dsa_drain_pasid(u32 pasid) {
  attempt(DRAIN_PASID, pasid);
}

void dsa_report_errors(void) {
  write32(registers + INTERRUPT_CAUSE, read32(registers + INTERRUPT_CAUSE));
  u32 words[6];
  for (u32 i = 0; i < ARRAY_SIZE(words); i++) words[i] = read32(registers + SOFTWARE_ERROR + 4 * i);
  if (!(words[0] & ERROR_VALID)) return;
  dsa_errors += words[0] & ERROR_OVERFLOW ? 2 : 1;
  report("error code=0x%x operation=%u pasid=%u address=0x%lx", words[0] >> 8 & 0xff, words[1] & 0xff,
         words[1] >> 8 & 0xfffff, words[4] | (u64)words[5] << 32);
  write32(registers + SOFTWARE_ERROR, ERROR_VALID | ERROR_OVERFLOW);
}
