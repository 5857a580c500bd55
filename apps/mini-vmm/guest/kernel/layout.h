/*
 * The address space. The lower half is a process's own; its tables are also the first stage of its PASID.
 *
 *   0x0000000000400000            the program, then mmap from 0x10000000, portals from 0x600000000000, the stack
 *   0xffff800000000000 (slot 256) all physical memory at its address, devices included
 *   0xffffffff80000000 (slot 511) the low 2 GiB again: the kernel as linked
 */

#pragma once

#define DIRECT_MAP_SLOT 256
#define DIRECT_MAP 0xffff800000000000
#define KERNEL_BASE 0xffffffff80000000

#define MMAP_BASE 0x10000000
#define MMAP_END 0x600000000000
#define PORTAL_BASE 0x600000000000
#define STACK_TOP 0x7ffffffff000
#define STACK_BYTES 0x10000
#define USER_END 0x800000000000
