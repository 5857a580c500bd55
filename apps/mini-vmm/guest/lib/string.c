/* Memory, byte by byte. */

#include "lib.h"

void *memset(void *to, int byte, u64 bytes) {
  void *at = to;
  asm volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(byte) : "memory");
  return to;
}

void *memcpy(void *to, const void *from, u64 bytes) {
  void *at = to;
  asm volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(bytes)::"memory");
  return to;
}
