/* apic.c: the local APIC and its timer. */

#pragma once

#include "types.h"

#define TICKS_PER_SECOND 1000

/* Timer interrupts since boot. */
extern volatile u32 ticks;

void apic_init(u32 timer_hz);
void apic_end_of_interrupt(void);
/* Address and data of a message that brings `vector` to this processor. */
u32 message_address(void);
u32 message_data(u8 vector);
