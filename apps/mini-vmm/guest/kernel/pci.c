/* Configuration space through ECAM (PCI Express Base Specification 6.0, chapters 7 and 10). */

#include "pci.h"

#include "apic.h"
#include "memory.h"

#define ECAM 0xe0000000ul
#define WINDOW32 0xc0000000ul
#define WINDOW32_END 0xe0000000ul
#define WINDOW64 0x8000000000ul

#define VENDOR 0x00
#define COMMAND 0x04
#define STATUS 0x06
#define HEADER_TYPE 0x0e
#define BAR0 0x10
#define SECONDARY_BUS 0x19
#define CAPABILITIES 0x34
#define EXTENDED_CAPABILITIES 0x100

#define COMMAND_MEMORY (1u << 1)
#define COMMAND_MASTER (1u << 2)
#define STATUS_CAPABILITIES (1u << 4)
#define HEADER_BRIDGE 1
#define HEADER_MULTI_FUNCTION 0x80
#define BAR_IO (1u << 0)
#define BAR_64 (1u << 2)

#define MSIX_ENABLE (1u << 15)
#define PASID_ENABLE (1u << 0)
#define PRI_ENABLE (1u << 0)
#define ATS_ENABLE (1u << 15)

static u64 next32 = WINDOW32, next64 = WINDOW64;

static volatile u8 *config_of(u16 rid) {
  return to_virtual(ECAM + (u64)rid * PAGE_SIZE);
}

u16 pci_read16(const struct pci_function *function, u32 offset) {
  return *(volatile u16 *)(function->config + offset);
}

void pci_write16(const struct pci_function *function, u32 offset, u16 value) {
  *(volatile u16 *)(function->config + offset) = value;
}

u32 pci_read32(const struct pci_function *function, u32 offset) {
  return read32(function->config + offset);
}

void pci_write32(const struct pci_function *function, u32 offset, u32 value) {
  write32(function->config + offset, value);
}

static u64 allocate(u64 bytes, bool wide) {
  u64 *next = wide ? &next64 : &next32;
  u64 address = (*next + bytes - 1) & -bytes;
  if (!wide && address + bytes > WINDOW32_END) panic("no room for a BAR of %lu bytes", bytes);
  *next = address + bytes;
  return address;
}

/* Sizes the BARs and places those that have no address. Decoding is off meanwhile. */
static void place_bars(struct pci_function *function) {
  for (u32 i = 0; i < 6; i++) {
    u32 offset = BAR0 + 4 * i;
    u32 low = pci_read32(function, offset);
    if (low & BAR_IO) continue;
    bool wide = low & BAR_64;
    u32 high = wide ? pci_read32(function, offset + 4) : 0;
    pci_write32(function, offset, ~0u);
    if (wide) pci_write32(function, offset + 4, ~0u);
    u64 mask = (u64)(wide ? pci_read32(function, offset + 4) : ~0u) << 32 | (pci_read32(function, offset) & ~0xfu);
    if (mask & 0xffffffff) {
      u64 address = (low & ~0xfu) | (u64)high << 32;
      if (!address) address = allocate(-mask, wide);
      pci_write32(function, offset, (u32)address);
      if (wide) pci_write32(function, offset + 4, (u32)(address >> 32));
      function->bars[i] = address;
      function->bar_sizes[i] = -mask;
    }
    if (wide) i++;
  }
}

static bool find_on_bus(u32 bus, u32 ids, u32 depth, struct pci_function *function) {
  for (u32 slot = 0; slot < 256; slot++) {
    u16 rid = (u16)(bus << 8 | slot);
    volatile u8 *config = config_of(rid);
    if ((slot & 7) && !(config_of(rid & ~7)[HEADER_TYPE] & HEADER_MULTI_FUNCTION)) continue;
    u32 found = read32(config + VENDOR);
    if ((found & 0xffff) == 0xffff) continue;
    if (found == ids) {
      function->rid = rid;
      function->config = config;
      return true;
    }
    u32 below = config[SECONDARY_BUS];
    if ((config[HEADER_TYPE] & 0x7f) == HEADER_BRIDGE && below > bus && depth < 8 &&
        find_on_bus(below, ids, depth + 1, function))
      return true;
  }
  return false;
}

bool pci_find(u16 vendor, u16 device, struct pci_function *function) {
  if (!find_on_bus(0, vendor | (u32)device << 16, 0, function)) return false;
  u16 command = pci_read16(function, COMMAND);
  pci_write16(function, COMMAND, command & (u16)~COMMAND_MEMORY);
  place_bars(function);
  pci_write16(function, COMMAND, command | COMMAND_MEMORY | COMMAND_MASTER);
  return true;
}

u32 pci_capability(const struct pci_function *function, u8 id) {
  if (!(pci_read16(function, STATUS) & STATUS_CAPABILITIES)) return 0;
  u32 offset = function->config[CAPABILITIES] & ~3u;
  for (u32 seen = 0; offset && seen < 48; seen++) {
    u16 header = pci_read16(function, offset);
    if ((header & 0xff) == id) return offset;
    offset = header >> 8 & ~3u;
  }
  return 0;
}

u32 pci_extended_capability(const struct pci_function *function, u16 id) {
  u32 offset = EXTENDED_CAPABILITIES;
  for (u32 seen = 0; offset >= EXTENDED_CAPABILITIES && seen < 480; seen++) {
    u32 header = pci_read32(function, offset);
    if ((header & 0xffff) == id) return offset;
    offset = header >> 20 & ~3u;
  }
  return 0;
}

u32 pci_enable_shared_addressing(const struct pci_function *function) {
  u32 pasid = pci_extended_capability(function, EXTENDED_PASID);
  u32 pri = pci_extended_capability(function, EXTENDED_PRI);
  u32 ats = pci_extended_capability(function, EXTENDED_ATS);
  if (!pasid || !pri || !ats) return 0;
  /* PASID does not change while ATS is on. */
  pci_write16(function, pasid + 6, PASID_ENABLE);
  pci_write32(function, pri + 12, pci_read32(function, pri + 8));
  pci_write16(function, pri + 4, PRI_ENABLE);
  pci_write16(function, ats + 6, ATS_ENABLE);
  return pci_read16(function, pasid + 4) >> 8 & 0x1f;
}

bool pci_route_interrupt(const struct pci_function *function, u32 entry, u8 vector) {
  u32 capability = pci_capability(function, CAPABILITY_MSIX);
  if (!capability) return false;
  u16 control = pci_read16(function, capability + 2);
  u32 table = pci_read32(function, capability + 4);
  if (entry > (control & 0x7ff) || (table & 7) > 5 || !function->bars[table & 7]) return false;
  volatile u8 *at = map_device(function->bars[table & 7] + (table & ~7u) + 16 * entry, 16);
  write32(at + 0, message_address());
  write32(at + 4, 0);
  write32(at + 8, message_data(vector));
  write32(at + 12, 0);
  pci_write16(function, capability + 2, control | MSIX_ENABLE);
  return true;
}
