/* Formatted text. */

#include "lib.h"

static void put(struct line *line, char byte) {
  if (line->length < sizeof(line->text)) line->text[line->length++] = byte;
}

static void put_number(struct line *line, u64 value, u64 base) {
  char digits[20];
  u32 count = 0;
  do {
    digits[count++] = "0123456789abcdef"[value % base];
    value /= base;
  } while (value);
  while (count) put(line, digits[--count]);
}

void format_list(struct line *line, const char *text, va_list arguments) {
  for (; *text; text++) {
    if (*text != '%') {
      put(line, *text);
      continue;
    }
    bool wide = *++text == 'l';
    if (wide) text++;
    if (*text == 's') {
      for (const char *string = __builtin_va_arg(arguments, const char *); *string; string++) put(line, *string);
    } else if (*text == 'd') {
      i64 value = wide ? __builtin_va_arg(arguments, i64) : __builtin_va_arg(arguments, int);
      if (value < 0) put(line, '-');
      put_number(line, value < 0 ? -(u64)value : (u64)value, 10);
    } else if (*text == 'u' || *text == 'x') {
      u64 value = wide ? __builtin_va_arg(arguments, u64) : __builtin_va_arg(arguments, u32);
      put_number(line, value, *text == 'u' ? 10 : 16);
    } else {
      put(line, *text);
    }
  }
}

void format(struct line *line, const char *text, ...) {
  va_list arguments;
  __builtin_va_start(arguments, text);
  format_list(line, text, arguments);
  __builtin_va_end(arguments);
}
