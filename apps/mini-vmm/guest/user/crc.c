/* CRC-32C (polynomial 0x1edc6f41, reflected), eight bytes at a time through four tables of 16 bits. */

#include "system.h"

#define POLYNOMIAL 0x82f63b78u

/* table[n][x]: what the 16 bits x add to the CRC when n times 16 bits follow them in their group. */
static u32 table[4][65536];

void crc_init(void) {
  /* A CRC is linear: the value of x is that of x without its lowest bit and that of the bit. */
  for (u32 bit = 0; bit < 16; bit++) {
    u32 crc = 1u << bit;
    for (u32 i = 0; i < 16; i++) crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
    table[0][1u << bit] = crc;
  }
  for (u32 x = 1; x < 65536; x++) table[0][x] = table[0][x & (x - 1)] ^ table[0][x & -x];
  for (u32 n = 1; n < 4; n++) {
    for (u32 x = 1; x < 65536; x++) {
      u32 crc = table[n - 1][x];
      table[n][x] = crc >> 16 ^ table[0][crc & 0xffff];
    }
  }
}

u32 crc32c(u32 seed, const void *from, u64 bytes) {
  const u64 *words = from;
  u64 crc = (u32)~seed;
  for (u64 i = 0; i < bytes / 8; i++) {
    u64 word = words[i] ^ crc;
    crc = table[3][word & 0xffff] ^ table[2][word >> 16 & 0xffff] ^ table[1][word >> 32 & 0xffff] ^
          table[0][word >> 48];
  }
  return ~(u32)crc;
}
