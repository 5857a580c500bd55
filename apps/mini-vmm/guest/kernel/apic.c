/* The local APIC in xAPIC mode (Intel SDM volume 3A, chapter "Advanced Programmable Interrupt Controller"). */

#include "apic.h"

#include "memory.h"
#include "trap.h"

#define LOCAL_APIC 0xfee00000ul

#define ID 0x020
#define TASK_PRIORITY 0x080
#define END_OF_INTERRUPT 0x0b0
#define SPURIOUS 0x0f0
#define TIMER 0x320
#define INITIAL_COUNT 0x380
#define DIVIDE 0x3e0

#define SPURIOUS_ENABLE (1u << 8)
#define TIMER_PERIODIC (1u << 17)
#define DIVIDE_BY_1 0xb

volatile u32 ticks;
static volatile u8 *registers;

void apic_init(u32 timer_hz) {
  registers = map_device(LOCAL_APIC, PAGE_SIZE);
  write32(registers + SPURIOUS, SPURIOUS_ENABLE | VECTOR_SPURIOUS);
  write32(registers + TASK_PRIORITY, 0);
  write32(registers + DIVIDE, DIVIDE_BY_1);
  write32(registers + TIMER, TIMER_PERIODIC | VECTOR_TICK);
  write32(registers + INITIAL_COUNT, timer_hz / TICKS_PER_SECOND);
}

void apic_end_of_interrupt(void) {
  write32(registers + END_OF_INTERRUPT, 0);
}

u32 message_address(void) {
  return LOCAL_APIC | (read32(registers + ID) >> 24) << 12;
}

u32 message_data(u8 vector) {
  return vector;
}
