/* pci.c: functions, their BARs and capabilities. */

#pragma once

#include "types.h"

struct pci_function {
  u16 rid; /* bus << 8 | device << 3 | function */
  volatile u8 *config;
  u64 bars[6]; /* physical addresses; 0 where there is none */
  u64 bar_sizes[6];
};

#define CAPABILITY_MSIX 0x11
#define EXTENDED_ATS 0x0f
#define EXTENDED_PRI 0x13
#define EXTENDED_PASID 0x1b

u16 pci_read16(const struct pci_function *function, u32 offset);
void pci_write16(const struct pci_function *function, u32 offset, u16 value);
u32 pci_read32(const struct pci_function *function, u32 offset);
void pci_write32(const struct pci_function *function, u32 offset, u32 value);

/* Finds the first function with these ids, gives it addresses and lets it decode and master. */
bool pci_find(u16 vendor, u16 device, struct pci_function *function);
/* Offset of a capability in configuration space, or 0. */
u32 pci_capability(const struct pci_function *function, u8 id);
u32 pci_extended_capability(const struct pci_function *function, u16 id);
/* PASID, then PRI and ATS: the width of PASIDs, or 0 when one of the three is missing. */
u32 pci_enable_shared_addressing(const struct pci_function *function);
/* Sends MSI-X entry `entry` to `vector` on this processor. */
bool pci_route_interrupt(const struct pci_function *function, u32 entry, u8 vector);
