import { Uart16550 } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';

function make() {
  const out: number[] = [];
  const line: boolean[] = [];
  const uart = new Uart16550({ output: (byte) => out.push(byte), line: (asserted) => line.push(asserted) });
  return { uart, out, line };
}

const bytes = (text: string): number[] => [...text].map((letter) => letter.charCodeAt(0));

describe('registers', () => {
  test('bytes go out', () => {
    const { uart, out } = make();
    for (const byte of bytes('ok\n')) uart.writeRegister(0, byte);
    expect(out).toEqual(bytes('ok\n'));
    expect(uart.readRegister(5)).toBe(0x60);
  });

  test('the divisor latch hides data and interrupt enable', () => {
    const { uart, out } = make();
    uart.writeRegister(1, 0x0f);
    uart.writeRegister(3, 0x83);
    uart.writeRegister(0, 0x34);
    uart.writeRegister(1, 0x12);
    expect([uart.readRegister(0), uart.readRegister(1), out.length]).toEqual([0x34, 0x12, 0]);
    uart.writeRegister(3, 0x03);
    expect([uart.readRegister(1), uart.readRegister(3)]).toEqual([0x0f, 0x03]);
  });

  test('scratch keeps its value, status registers do not', () => {
    const { uart } = make();
    uart.writeRegister(7, 0x5a);
    uart.writeRegister(5, 0xff);
    uart.writeRegister(6, 0xff);
    expect([uart.readRegister(7), uart.readRegister(5), uart.readRegister(6)]).toEqual([0x5a, 0x60, 0xb0]);
    expect(uart.readRegister(9)).toBe(0);
  });

  test('FIFOs show in the identification register', () => {
    const { uart } = make();
    expect(uart.readRegister(2)).toBe(0x01);
    uart.writeRegister(2, 0x01);
    expect(uart.readRegister(2)).toBe(0xc1);
    uart.writeRegister(2, 0x00);
    expect(uart.readRegister(2)).toBe(0x01);
  });

  test('MMIO, with registers a word apart', () => {
    const out: number[] = [];
    const uart = new Uart16550({ output: (byte) => out.push(byte), registerShift: 2 });
    uart.write(0, 4, 0x141n);
    uart.write(28, 4, 0x77n);
    expect(out).toEqual([0x41]);
    expect([uart.read(28, 4), uart.read(20, 1)]).toEqual([0x77n, 0x60n]);
  });
});

describe('receiver', () => {
  test('without FIFO one byte at a time, none lost', () => {
    const { uart } = make();
    uart.receive(bytes('abc'));
    const got: number[] = [];
    while ((uart.readRegister(5) & 1) !== 0) got.push(uart.readRegister(0));
    expect(got).toEqual(bytes('abc'));
    expect(uart.readRegister(0)).toBe(0);
  });

  test('with FIFO: data at the trigger level, time-out below', () => {
    const { uart, line } = make();
    uart.writeRegister(2, 0x81); // trigger 8
    uart.writeRegister(1, 1);
    uart.receive(bytes('1234567'));
    expect(uart.readRegister(2)).toBe(0xcc);
    uart.receive(bytes('8'));
    expect(uart.readRegister(2)).toBe(0xc4);
    for (let i = 0; i < 8; i++) uart.readRegister(0);
    expect(uart.readRegister(2)).toBe(0xc1);
    expect(line).toEqual([true, false]);
  });

  test('40 bytes wait outside a FIFO of 16', () => {
    const { uart } = make();
    uart.writeRegister(2, 0x01);
    const sent = Array.from({ length: 40 }, (_, index) => index);
    uart.receive(sent);
    const got: number[] = [];
    while ((uart.readRegister(5) & 1) !== 0) got.push(uart.readRegister(0));
    expect(got).toEqual(sent);
  });

  test('clearing the FIFO drops what is in it', () => {
    const { uart } = make();
    uart.writeRegister(2, 0x01);
    uart.receive(bytes('xyz'));
    uart.writeRegister(2, 0x03);
    expect(uart.readRegister(5) & 1).toBe(0);
  });
});

describe('interrupts', () => {
  test('the transmitter: raised by enabling, cleared by identification or a byte', () => {
    const { uart, line } = make();
    uart.writeRegister(1, 2);
    expect(line).toEqual([true]);
    expect(uart.readRegister(2)).toBe(0x02);
    expect(line).toEqual([true, false]);
    expect(uart.readRegister(2)).toBe(0x01);
    uart.writeRegister(0, 0x20);
    expect(line).toEqual([true, false, true]);
  });

  test('priority: line status, data, transmitter, modem', () => {
    const { uart } = make();
    uart.writeRegister(4, 0x10); // loop back
    uart.writeRegister(1, 0x0f);
    uart.writeRegister(0, 1);
    uart.writeRegister(0, 2); // overrun
    uart.writeRegister(4, 0x13);
    expect(uart.readRegister(2)).toBe(0x06);
    expect(uart.readRegister(5)).toBe(0x63);
    expect(uart.readRegister(2)).toBe(0x04);
    uart.readRegister(0);
    expect(uart.readRegister(2)).toBe(0x02);
    expect(uart.readRegister(2)).toBe(0x00);
    // DCD, DSR and CTS changed when loop-back began, CTS and DSR again with RTS and DTR.
    expect(uart.readRegister(6)).toBe(0x3b);
    expect(uart.readRegister(2)).toBe(0x01);
  });
});

test('loop-back ties the modem lines together and the transmitter to the receiver', () => {
  const { uart, out } = make();
  uart.writeRegister(4, 0x1a); // loop, RTS, OUT2
  expect(uart.readRegister(6) & 0xf0).toBe(0x90);
  uart.writeRegister(0, 0x55);
  expect([uart.readRegister(0), out.length]).toEqual([0x55, 0]);
});
