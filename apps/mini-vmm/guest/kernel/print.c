/* Lines for the console and the report, and the end of the machine. */

#include "kernel.h"

#define POWER_PORT 0xf4

void console(const char *text, ...) {
  struct line line = {.length = 0};
  va_list arguments;
  __builtin_va_start(arguments, text);
  format_list(&line, text, arguments);
  __builtin_va_end(arguments);
  format(&line, "\n");
  console_write(line.text, line.length);
}

void report(const char *text, ...) {
  struct line line = {.length = 0};
  va_list arguments;
  __builtin_va_start(arguments, text);
  format_list(&line, text, arguments);
  __builtin_va_end(arguments);
  format(&line, "\n");
  report_write(line.text, line.length);
}

void panic(const char *text, ...) {
  struct line line = {.length = 0};
  va_list arguments;
  __builtin_va_start(arguments, text);
  format_list(&line, text, arguments);
  __builtin_va_end(arguments);
  format(&line, "\n");
  console_write("kernel panic: ", 14);
  console_write(line.text, line.length);
  report_write("panic text=", 11);
  report_write(line.text, line.length);
  power_off(EXIT_PANIC);
}

void power_off(u32 status) {
  out32(POWER_PORT, status);
  for (;;) asm volatile("cli; hlt");
}
