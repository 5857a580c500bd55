/* What every part of the kernel uses of main.c, print.c and serial.c. */

#pragma once

#include "bootinfo.h"
#include "cpu.h"
#include "lib.h"
#include "types.h"

extern struct boot_info boot_info;

/* serial.c: the console and the report. */
void serial_init(void);
void console_write(const char *text, u64 bytes);
void report_write(const char *text, u64 bytes);

/* print.c: one line each. */
void console(const char *text, ...) __attribute__((format(printf, 1, 2)));
void report(const char *text, ...) __attribute__((format(printf, 1, 2)));
/* Reports the text and powers off. */
void panic(const char *text, ...) __attribute__((noreturn, format(printf, 1, 2)));
void power_off(u32 status) __attribute__((noreturn));

/*
 * main.c: lets interrupts in until (*word & mask) == value, for at most `limit` ticks. The scheduler does not run
 * meanwhile. False when the time is over.
 */
bool wait_for(const volatile u32 *word, u32 mask, u32 value, u32 limit);
