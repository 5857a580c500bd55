/* Instructions that C has no words for (Intel SDM, volumes 2 and 3). */

#pragma once

#include "types.h"

#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_FMASK 0xc0000084u
#define MSR_PASID 0xd93u

#define EFER_SYSCALL (1u << 0)
#define EFER_NO_EXECUTE (1u << 11)
#define CR0_WRITE_PROTECT (1ul << 16)
#define CR4_GLOBAL_PAGES (1ul << 7)
#define RFLAGS_INTERRUPTS (1ul << 9)
#define MSR_PASID_VALID (1ul << 31)

static inline void out8(u16 port, u8 value) {
  asm volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}

static inline u8 in8(u16 port) {
  u8 value;
  asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

static inline void out32(u16 port, u32 value) {
  asm volatile("outl %0, %1" ::"a"(value), "Nd"(port));
}

static inline void write_msr(u32 msr, u64 value) {
  asm volatile("wrmsr" ::"c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

static inline u64 read_msr(u32 msr) {
  u32 low, high;
  asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
  return low | (u64)high << 32;
}

static inline u64 read_cr0(void) {
  u64 value;
  asm volatile("mov %%cr0, %0" : "=r"(value));
  return value;
}

static inline void write_cr0(u64 value) {
  asm volatile("mov %0, %%cr0" ::"r"(value) : "memory");
}

static inline u64 read_cr2(void) {
  u64 value;
  asm volatile("mov %%cr2, %0" : "=r"(value));
  return value;
}

static inline void write_cr3(u64 value) {
  asm volatile("mov %0, %%cr3" ::"r"(value) : "memory");
}

static inline u64 read_cr4(void) {
  u64 value;
  asm volatile("mov %%cr4, %0" : "=r"(value));
  return value;
}

static inline void write_cr4(u64 value) {
  asm volatile("mov %0, %%cr4" ::"r"(value) : "memory");
}

static inline void invalidate_page(u64 address) {
  asm volatile("invlpg (%0)" ::"r"(address) : "memory");
}

static inline void cpuid(u32 leaf, u32 subleaf, u32 result[4]) {
  asm volatile("cpuid"
               : "=a"(result[0]), "=b"(result[1]), "=c"(result[2]), "=d"(result[3])
               : "a"(leaf), "c"(subleaf));
}

static inline void cpu_pause(void) {
  asm volatile("pause" ::: "memory");
}

/* Lets interrupts in until one has come. They are off before and after. */
static inline void wait_for_interrupt(void) {
  asm volatile("sti; hlt; cli" ::: "memory");
}

/* Registers of devices. */
static inline u32 read32(const volatile void *address) {
  return *(const volatile u32 *)address;
}

static inline void write32(volatile void *address, u32 value) {
  *(volatile u32 *)address = value;
}

static inline u64 read64(const volatile void *address) {
  return *(const volatile u64 *)address;
}

static inline void write64(volatile void *address, u64 value) {
  *(volatile u64 *)address = value;
}
