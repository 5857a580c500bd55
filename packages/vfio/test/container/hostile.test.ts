import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ContainerHost, GuestTable, NOTHING, PAGE } from '../support/container-host.ts';

const requests = [
  ...Array.from({ length: 0x16 }, (_, index) => 0x3b64 + index),
  ...Array.from({ length: 4 }, (_, index) => 0x3bc0 + index),
];
const word = fc.oneof(
  fc.nat(80),
  fc.constantFrom(0xffffffff, 0x80000000, 0x7fffffff, 0x1000, 0x10000),
  fc.nat(0xffffffff),
);

test('hostile arguments to container, group and device give an errno, never more, and the end leaves nothing', () => {
  const host = new ContainerHost();
  fc.assert(
    fc.property(
      fc.array(
        fc.record({
          target: fc.nat(2),
          request: fc.constantFrom(...requests),
          words: fc.array(word, { minLength: 22, maxLength: 22 }),
          // A value, an address at the end of memory, one past it, or none.
          at: fc.oneof(
            fc.constant(0n),
            fc.constantFrom(2n * BigInt(PAGE) - 32n, 2n * BigInt(PAGE) - 8n),
            fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
          ),
        }),
        { maxLength: 25 },
      ),
      (calls) => {
        const program = host.program();
        const { container, groups, devices, memory } = program.open();
        const table = new GuestTable(program, memory);
        container.bindGuestPasid({ hostPasid: program.pasid(), pageTable: table.root, addressWidth: 48 });
        const fds = [container.fd, groups[0]!.fd, devices[0]!.fd];
        for (const { target, request, words, at } of calls) {
          const bytes = new Uint8Array(Uint32Array.from(words).buffer);
          const inside = at < 2n * BigInt(PAGE);
          const argument = inside ? program.argument + at : at;
          if (inside) program.memory.write(argument, bytes.subarray(0, 2 * PAGE - Number(at)));
          const result = program.system.ioctl(fds[target]!, request, argument);
          expect([request, result > -134 && result < 64]).toEqual([request, true]);
        }
        program.system.exit();
        host.settle();
        expect(host.held).toEqual(NOTHING);
      },
    ),
    { numRuns: 100 },
  );
  expect(host.leftFrames()).toBe(0);
});

test('hostile accesses to the fault region', () => {
  const host = new ContainerHost();
  const program = host.program();
  const { devices } = program.open();
  const offset = fc.oneof(fc.nat(40), fc.nat(40000), fc.bigInt({ min: 0n, max: 2n ** 40n - 1n }));
  fc.assert(
    fc.property(
      fc.constantFrom(8n, 9n, 10n, 2n ** 23n),
      offset,
      fc.nat(70),
      fc.boolean(),
      (region, at, length, writes) => {
        const position = (region << 40n) + BigInt(at);
        const bytes = new Uint8Array(length).fill(0xff);
        try {
          const done = writes
            ? program.system.write(devices[0]!.fd, bytes, position)
            : program.system.read(devices[0]!.fd, bytes, position);
          expect(done).toBeLessThanOrEqual(length);
        } catch (error) {
          expect((error as { code: string }).code).toBe('EINVAL');
        }
      },
    ),
    { numRuns: 300 },
  );
  expect(devices[0]!.readDmaFaults()).toEqual([]);
});
