/* What kernel and program share. */

#pragma once

#include "types.h"

/* string.c: what gcc may call. */
void *memset(void *to, int byte, u64 bytes);
void *memcpy(void *to, const void *from, u64 bytes);

typedef __builtin_va_list va_list;

/* A line under construction; what does not fit is cut off. */
struct line {
  char text[256];
  u32 length;
};

/* format.c: appends `text`, with %s, %d, %u, %x, the last three also with l for 64 bits, and %%. */
void format(struct line *line, const char *text, ...) __attribute__((format(printf, 2, 3)));
void format_list(struct line *line, const char *text, va_list arguments);
