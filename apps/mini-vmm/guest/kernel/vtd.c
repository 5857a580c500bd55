/*
 * The remapping unit in scalable mode (Intel Virtualization Technology for Directed I/O, order D51397, revision 4.1):
 * root, context and PASID tables, queued invalidation, the page-request queue and the fault records.
 *
 * One function is attached. Its requests without PASID pass through, those with one use the tables of a process.
 */

#include "vtd.h"

#include "apic.h"
#include "iopf.h"
#include "memory.h"
#include "trap.h"

#define VTD_REGISTERS 0xfed90000ul

#define VERSION 0x00
#define CAPABILITY 0x08
#define EXTENDED_CAPABILITY 0x10
#define GLOBAL_COMMAND 0x18
#define GLOBAL_STATUS 0x1c
#define ROOT_TABLE 0x20
#define FAULT_STATUS 0x34
#define FAULT_EVENT 0x38
#define QUEUE_HEAD 0x80
#define QUEUE_TAIL 0x88
#define QUEUE_ADDRESS 0x90
#define QUEUE_ERROR 0xb0
#define REQUEST_HEAD 0xc0
#define REQUEST_TAIL 0xc8
#define REQUEST_ADDRESS 0xd0
#define REQUEST_STATUS 0xdc
#define REQUEST_EVENT 0xe0

#define CAP_CACHING_MODE (1ul << 7)
#define CAP_WIDTHS(cap) ((u32)(cap) >> 8 & 0x1f)
#define CAP_FAULT_OFFSET(cap) (((cap) >> 24 & 0x3ff) * 16)
#define CAP_FAULT_RECORDS(cap) ((u32)((cap) >> 40 & 0xff) + 1)
#define CAP_LARGEST_MASK(cap) ((u32)((cap) >> 48 & 0x3f))

#define ECAP_QUEUED_INVALIDATION (1ul << 1)
#define ECAP_DEVICE_TLB (1ul << 2)
#define ECAP_PASS_THROUGH (1ul << 6)
#define ECAP_PAGE_REQUESTS (1ul << 29)
#define ECAP_EXECUTE_REQUESTS (1ul << 30)
#define ECAP_PASID_BITS(ecap) ((u32)((ecap) >> 35 & 0x1f) + 1)
#define ECAP_PASID (1ul << 40)
#define ECAP_REQUEST_DRAIN (1ul << 42)
#define ECAP_SCALABLE_MODE (1ul << 43)
#define ECAP_FIRST_STAGE (1ul << 47)
#define ECAP_COHERENT_WALKS (1ul << 48)

#define GLOBAL_STICKY 0x96ffffffu /* the bits of GLOBAL_STATUS that a command repeats */
#define GLOBAL_TRANSLATION (1u << 31)
#define GLOBAL_ROOT_POINTER (1u << 30)
#define GLOBAL_QUEUE (1u << 26)
#define ROOT_SCALABLE (1ul << 10)

#define FAULT_OVERFLOW (1u << 0)
#define FAULT_PENDING (1u << 1)
#define FAULT_QUEUE (1u << 4)
#define FAULT_TIMEOUT (1u << 6)
#define FAULT_INDEX(status) ((status) >> 8 & 0xff)
/* The upper two words of a fault record. */
#define RECORD_PAGE_REQUEST (1u << 28)
#define RECORD_HAS_PASID (1u << 31)
#define RECORD_READ (1u << 30)
#define RECORD_FAULT (1u << 31)
#define REQUESTS_PENDING (1u << 0)
#define REQUESTS_OVERFLOW (1u << 1)

#define CONTEXT_PRESENT (1ul << 0)
#define CONTEXT_DEVICE_TLB (1ul << 2)
#define CONTEXT_PASID (1ul << 3)
#define CONTEXT_PAGE_REQUESTS (1ul << 4)
#define CONTEXT_DIRECTORY_SIZE(order) ((u64)(order) << 9) /* 2^(order + 7) entries */

#define PASID_PRESENT (1ul << 0)
#define PASID_WIDTH(width) ((u64)(width) << 2)
#define PASID_FIRST_STAGE (1ul << 6)
#define PASID_PASS_THROUGH (4ul << 6)
#define PASID_RESERVED (1ul << 11)
#define PASID1_COHERENT_WALKS (1ul << 23)
#define PASID2_NO_EXECUTE (1ul << 5)

#define PASIDS_IN_TABLE 64
#define LARGEST_PASID_BITS 15
/* Domains: with caching mode 0 is reserved. */
#define DOMAIN_PASS_THROUGH 1
#define DOMAIN_PROCESSES 2

#define CONTEXT_CACHE 0x1ul
#define IOTLB 0x2ul
#define WAIT 0x5ul
#define PASID_IOTLB 0x6ul
#define PASID_CACHE 0x7ul
#define PASID_DEVICE_TLB 0x8ul
#define PAGE_RESPONSE 0x9ul
#define ALL_CONTEXTS (1ul << 4)
#define ALL_IOTLB (1ul << 4)
#define ALL_PASIDS (3ul << 4)
#define ONE_PASID_CACHE (1ul << 4)
#define ONE_PASID_IOTLB (2ul << 4)
#define PAGES_OF_PASID (3ul << 4)
#define WAIT_STATUS (1ul << 5)
#define WAIT_FENCE (1ul << 6)
#define WAIT_DRAIN (1ul << 7)
#define DEVICE_TLB_RANGE (1ul << 11)

#define QUEUE_BYTES PAGE_SIZE
#define DESCRIPTOR_BYTES 32
#define QUEUE_WIDE (1ul << 11)
#define QUEUE_TICKS 500

struct pasid_entry {
  u64 words[8];
};

u32 vtd_last_pasid;
bool vtd_no_execute;
u64 vtd_faults;

static volatile u8 *registers;
static u64 cap, ecap;
static u16 attached_rid;
static u64 (*queue)[4];
static u32 queue_tail;
static volatile u32 queue_status; /* written by wait descriptors */
static u32 queue_sequence;
static u32 queue_timeouts;
static u32 (*requests)[8];
static u64 *directory;

static bool command(u32 bit) {
  write32(registers + GLOBAL_COMMAND, (read32(registers + GLOBAL_STATUS) & GLOBAL_STICKY) | bit);
  return wait_for((volatile u32 *)(registers + GLOBAL_STATUS), bit, bit, QUEUE_TICKS);
}

/* Puts a descriptor into the invalidation queue. */
static void submit(u64 low, u64 high) {
  u32 next = (queue_tail + DESCRIPTOR_BYTES) % QUEUE_BYTES;
  for (u32 tries = 0; read32(registers + QUEUE_HEAD) == next; tries++) {
    if (tries == 1000000) panic("the invalidation queue is stuck");
    cpu_pause();
  }
  u64 *descriptor = queue[queue_tail / DESCRIPTOR_BYTES];
  descriptor[0] = low;
  descriptor[1] = high;
  descriptor[2] = 0;
  descriptor[3] = 0;
  queue_tail = next;
  asm volatile("" ::: "memory");
  write64(registers + QUEUE_TAIL, queue_tail);
}

/* Waits until the unit has done all that was submitted, and with WAIT_DRAIN written out all page requests. */
static void complete(u64 drain) {
  u32 sequence = ++queue_sequence;
  submit(WAIT | WAIT_STATUS | WAIT_FENCE | drain | (u64)sequence << 32, to_physical((const void *)&queue_status));
  if (wait_for(&queue_status, ~0u, sequence, QUEUE_TICKS)) return;
  u32 status = read32(registers + FAULT_STATUS);
  if (!(status & FAULT_TIMEOUT)) {
    panic("invalidation queue: status 0x%x, error 0x%lx", status, read64(registers + QUEUE_ERROR));
  }
  /* The device did not answer an invalidation; the unit has given up waiting. */
  if (queue_timeouts++ == 0) console("vt-d: the device does not answer invalidations");
  write32(registers + FAULT_STATUS, FAULT_TIMEOUT);
}

static void enable_event(u32 offset, u8 vector) {
  write32(registers + offset + 4, message_data(vector));
  write32(registers + offset + 8, message_address());
  write32(registers + offset + 12, 0);
  write32(registers + offset, 0);
}

static struct pasid_entry *pasid_entry(u32 pasid) {
  u64 *slot = &directory[pasid / PASIDS_IN_TABLE];
  if (!*slot) *slot = frame_require() | 1;
  struct pasid_entry *table = to_virtual(*slot & PTE_ADDRESS);
  return &table[pasid % PASIDS_IN_TABLE];
}

/* The last word written is the one with the present bit. */
static void write_entry(struct pasid_entry *entry, u64 word0, u64 word1, u64 word2) {
  volatile u64 *words = entry->words;
  words[2] = word2;
  words[1] = word1;
  words[0] = word0;
}

static void require(u64 bit, const char *what) {
  if (!(ecap & bit)) panic("the remapping unit has no %s", what);
}

/* The way from the function's requester id to its PASIDs. */
static void attach(u16 rid, u32 pasid_bits) {
  u64 *root = to_virtual(frame_require());
  u64 context_frame = frame_require();
  u64 *context = (u64 *)to_virtual(context_frame) + (rid & 0x7f) * 4;
  u32 order = pasid_bits > 13 ? pasid_bits - 13 : 0;
  directory = to_virtual(frame_require());
  attached_rid = rid;
  if (ecap & ECAP_PASS_THROUGH) {
    /* The widest address width that the unit has. */
    u32 width = 3;
    while (width > 1 && !(CAP_WIDTHS(cap) >> width & 1)) width--;
    write_entry(pasid_entry(0), PASID_PASS_THROUGH | PASID_WIDTH(width) | PASID_PRESENT, DOMAIN_PASS_THROUGH, 0);
  }
  context[1] = 0; /* requests without PASID use entry 0 */
  context[0] = to_physical(directory) | CONTEXT_DIRECTORY_SIZE(order) | CONTEXT_PAGE_REQUESTS | CONTEXT_PASID |
               CONTEXT_DEVICE_TLB | CONTEXT_PRESENT;
  root[(rid >> 8) * 2 + (rid >> 7 & 1)] = context_frame | 1;
  write64(registers + ROOT_TABLE, to_physical(root) | ROOT_SCALABLE);
  if (!command(GLOBAL_ROOT_POINTER)) panic("the remapping unit does not take a root table");
  submit(CONTEXT_CACHE | ALL_CONTEXTS, 0);
  submit(PASID_CACHE | ALL_PASIDS, 0);
  submit(IOTLB | ALL_IOTLB, 0);
  complete(0);
}

void vtd_init(u16 rid, u32 device_pasid_bits) {
  registers = map_device(VTD_REGISTERS, PAGE_SIZE);
  cap = read64(registers + CAPABILITY);
  ecap = read64(registers + EXTENDED_CAPABILITY);
  require(ECAP_QUEUED_INVALIDATION, "queued invalidation");
  require(ECAP_SCALABLE_MODE, "scalable mode");
  require(ECAP_FIRST_STAGE, "first-stage translation");
  require(ECAP_PASID, "PASID support");
  require(ECAP_PAGE_REQUESTS, "page requests");
  require(ECAP_DEVICE_TLB, "device TLBs");
  vtd_no_execute = ecap & ECAP_EXECUTE_REQUESTS;

  u32 bits = ECAP_PASID_BITS(ecap);
  if (bits > device_pasid_bits) bits = device_pasid_bits;
  if (bits > LARGEST_PASID_BITS) bits = LARGEST_PASID_BITS;
  vtd_last_pasid = (1u << bits) - 1;

  /* The queue first: scalable mode knows no other way to invalidate. */
  queue = to_virtual(frame_require());
  write64(registers + QUEUE_TAIL, 0);
  write64(registers + QUEUE_ADDRESS, to_physical(queue) | QUEUE_WIDE);
  if (!command(GLOBAL_QUEUE)) panic("the remapping unit does not enable its queue");
  attach(rid, bits);

  requests = to_virtual(frame_require());
  write64(registers + REQUEST_HEAD, 0);
  write64(registers + REQUEST_TAIL, 0);
  write64(registers + REQUEST_ADDRESS, to_physical(requests));
  write32(registers + REQUEST_STATUS, REQUESTS_PENDING | REQUESTS_OVERFLOW);
  enable_event(REQUEST_EVENT, VECTOR_PAGE_REQUEST);
  vtd_report_faults();
  enable_event(FAULT_EVENT, VECTOR_DMA_FAULT);

  if (!command(GLOBAL_TRANSLATION)) panic("the remapping unit does not translate");
  u32 version = read32(registers + VERSION);
  console("vt-d %u.%u: scalable mode, queued invalidation, page requests, %u-bit PASIDs%s", version >> 4 & 15,
          version & 15, bits, cap & CAP_CACHING_MODE ? ", caching mode" : "");
}

void vtd_bind(u32 pid, u32 pasid, u64 cr3) {
  struct pasid_entry *entry = pasid_entry(pasid);
  u64 word0 = PASID_FIRST_STAGE | PASID_PRESENT;
  if (boot_info.breakage & BREAK_PASID_ENTRY_RESERVED) word0 |= PASID_RESERVED;
  write_entry(entry, word0, DOMAIN_PROCESSES | (ecap & ECAP_COHERENT_WALKS ? PASID1_COHERENT_WALKS : 0),
              cr3 | (vtd_no_execute ? PASID2_NO_EXECUTE : 0));
  report("entry pid=%u pasid=%u address=0x%lx cr3=0x%lx", pid, pasid, to_physical(entry), cr3);
  if (boot_info.breakage & BREAK_PASID_CACHE_FLUSH) return;
  submit(PASID_CACHE | ONE_PASID_CACHE | DOMAIN_PROCESSES << 16 | (u64)pasid << 32, 0);
  submit(PASID_IOTLB | ONE_PASID_IOTLB | DOMAIN_PROCESSES << 16 | (u64)pasid << 32, 0);
  complete(0);
}

/* The device's own cache of [address, address + 2^order pages), which is aligned. */
static void invalidate_device(u32 pasid, u64 address, u32 order) {
  u64 range = address;
  /* The lowest zero bit from bit 12 on is the highest that is not compared. */
  if (order > 0) range |= (((PAGE_SIZE << (order - 1)) - 1) & PAGE_MASK) | DEVICE_TLB_RANGE;
  submit(PASID_DEVICE_TLB | (u64)attached_rid << 16 | (u64)pasid << 32, range);
}

static void invalidate_device_all(u32 pasid) {
  invalidate_device(pasid, 0, 51);
}

void vtd_unbind(u32 pasid) {
  write_entry(pasid_entry(pasid), 0, 0, 0);
  submit(PASID_CACHE | ONE_PASID_CACHE | DOMAIN_PROCESSES << 16 | (u64)pasid << 32, 0);
  submit(PASID_IOTLB | ONE_PASID_IOTLB | DOMAIN_PROCESSES << 16 | (u64)pasid << 32, 0);
  complete(0);
  invalidate_device_all(pasid);
  complete(0);
}

void vtd_drain(u32 pasid) {
  u64 drain = ecap & ECAP_REQUEST_DRAIN ? WAIT_DRAIN : 0;
  for (u32 tries = 0; tries < 16; tries++) {
    iopf_serve();
    /* Requests on their way are pushed ahead of the answers to an invalidation of the device. */
    submit(PASID_IOTLB | ONE_PASID_IOTLB | DOMAIN_PROCESSES << 16 | (u64)pasid << 32, 0);
    invalidate_device_all(pasid);
    complete(drain);
    iopf_serve();
    if (!(read32(registers + REQUEST_STATUS) & REQUESTS_OVERFLOW)) return;
  }
  console("vt-d: page requests keep overflowing");
}

void vtd_invalidate(u32 pasid, u64 address, u64 bytes) {
  /* The smallest aligned power of two pages around the range. */
  u32 order = 0;
  while ((address >> (12 + order)) != ((address + bytes - 1) >> (12 + order))) order++;
  u64 start = address & -(PAGE_SIZE << order);
  if (order <= CAP_LARGEST_MASK(cap)) {
    submit(PASID_IOTLB | PAGES_OF_PASID | DOMAIN_PROCESSES << 16 | (u64)pasid << 32, start | order);
  } else {
    submit(PASID_IOTLB | ONE_PASID_IOTLB | DOMAIN_PROCESSES << 16 | (u64)pasid << 32, 0);
  }
  /* The unit's own cache must be clean before the device asks again. */
  complete(0);
  invalidate_device(pasid, start, order);
  complete(0);
}

void vtd_acknowledge_requests(void) {
  write32(registers + REQUEST_STATUS, REQUESTS_PENDING);
}

bool vtd_next_request(struct page_request *request) {
  u32 head = read32(registers + REQUEST_HEAD);
  if (head == read32(registers + REQUEST_TAIL)) {
    /* With the queue empty, requests that were dropped are asked for again. */
    if (read32(registers + REQUEST_STATUS) & REQUESTS_OVERFLOW) {
      write32(registers + REQUEST_STATUS, REQUESTS_OVERFLOW);
    }
    return false;
  }
  const volatile u32 *words = requests[head / DESCRIPTOR_BYTES % (PAGE_SIZE / DESCRIPTOR_BYTES)];
  request->rid = (u16)(words[0] >> 16);
  request->has_pasid = words[0] >> 8 & 1;
  request->pasid = words[1] & 0xfffff;
  request->execute = words[1] >> 20 & 1;
  request->privileged = words[1] >> 21 & 1;
  request->read = words[2] & 1;
  request->write = words[2] >> 1 & 1;
  request->last = words[2] >> 2 & 1;
  request->group = words[2] >> 3 & 0x1ff;
  request->address = (u64)words[3] << 32 | (words[2] & ~0xfffu);
  write64(registers + REQUEST_HEAD, (head + DESCRIPTOR_BYTES) % PAGE_SIZE);
  return true;
}

void vtd_respond(const struct page_request *request, u32 code) {
  u64 low = PAGE_RESPONSE | (u64)request->has_pasid << 4 | (u64)code << 12 | (u64)request->rid << 16;
  submit(low | (u64)request->pasid << 32, (u64)request->group << 3);
}

void vtd_report_faults(void) {
  u32 status = read32(registers + FAULT_STATUS);
  u32 records = CAP_FAULT_RECORDS(cap), index = FAULT_INDEX(status);
  /* From the first that became pending on; a bound, because the log fills while it is read. */
  for (u32 seen = 0; status & FAULT_PENDING && seen < 4 * records; seen++, index++) {
    volatile u8 *record = registers + CAP_FAULT_OFFSET(cap) + index % records * 16;
    u32 source = read32(record + 8), what = read32(record + 12);
    if (!(what & RECORD_FAULT)) break;
    u64 address = read64(record) & PAGE_MASK;
    i64 pasid = source & RECORD_HAS_PASID ? (i64)(what >> 8 & 0xfffff) : -1;
    report("fault reason=0x%x rid=%u pasid=%ld address=0x%lx write=%u", what & 0xff, source & 0xffff, pasid, address,
           !(what & RECORD_READ) && !(source & RECORD_PAGE_REQUEST));
    write32(record + 12, RECORD_FAULT);
    vtd_faults++;
  }
  write32(registers + FAULT_STATUS, FAULT_OVERFLOW);
}
