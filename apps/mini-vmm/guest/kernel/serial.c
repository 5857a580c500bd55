/* Two polled 16550s: the console and the report. */

#include "kernel.h"

#define CONSOLE 0x3f8
#define REPORT 0x2f8

#define DATA 0
#define INTERRUPT_ENABLE 1
#define FIFO_CONTROL 2
#define LINE_CONTROL 3
#define MODEM_CONTROL 4
#define LINE_STATUS 5

#define TRANSMITTER_EMPTY 0x20

static void init(u16 port) {
  out8(port + INTERRUPT_ENABLE, 0);
  out8(port + LINE_CONTROL, 0x80); /* divisor latch: 115200 baud */
  out8(port + DATA, 1);
  out8(port + INTERRUPT_ENABLE, 0);
  out8(port + LINE_CONTROL, 0x03); /* 8 bits, no parity, 1 stop bit */
  out8(port + FIFO_CONTROL, 0x07);
  out8(port + MODEM_CONTROL, 0x03);
}

static void put(u16 port, char byte) {
  for (u32 tries = 0; tries < 100000 && !(in8(port + LINE_STATUS) & TRANSMITTER_EMPTY); tries++) cpu_pause();
  out8(port + DATA, (u8)byte);
}

void serial_init(void) {
  init(CONSOLE);
  init(REPORT);
}

void console_write(const char *text, u64 bytes) {
  for (u64 i = 0; i < bytes; i++) {
    if (text[i] == '\n') put(CONSOLE, '\r');
    put(CONSOLE, text[i]);
  }
}

void report_write(const char *text, u64 bytes) {
  for (u64 i = 0; i < bytes; i++) put(REPORT, text[i]);
}
