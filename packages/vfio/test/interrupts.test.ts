import { TEST_COMMAND, TEST_REGISTER } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import * as uapi from '../src/uapi/vfio.ts';
import { Machine, refusal, type User } from './support/machine.ts';

const { VFIO_PCI_ERR_IRQ_INDEX: ERR, VFIO_PCI_MSIX_IRQ_INDEX: MSIX, VFIO_PCI_REQ_IRQ_INDEX: REQ } = uapi;
const NONE = uapi.VFIO_IRQ_SET_DATA_NONE;
const BOOL = uapi.VFIO_IRQ_SET_DATA_BOOL;
const EVENTFD = uapi.VFIO_IRQ_SET_DATA_EVENTFD;
const MASK = uapi.VFIO_IRQ_SET_ACTION_MASK;
const UNMASK = uapi.VFIO_IRQ_SET_ACTION_UNMASK;
const TRIGGER = uapi.VFIO_IRQ_SET_ACTION_TRIGGER;

function bound(): User {
  const user = new Machine().user();
  user.vfio.bind(user.iommufd.fd);
  user.busMaster(true);
  return user;
}

function raise(user: User, vector: number): void {
  user.storeRegister(TEST_REGISTER.vector, vector);
  user.storeRegister(TEST_REGISTER.command, TEST_COMMAND.interrupt);
  user.machine.settle();
}

function words(...values: number[]): Uint8Array {
  return new Uint8Array(Int32Array.from(values).buffer);
}

function setIrqs(user: User, flags: number, index: number, start: number, count: number, data?: Uint8Array) {
  const layout = uapi.vfioIrqSet;
  return user.ioctl(uapi.VFIO_DEVICE_SET_IRQS, layout, { flags, index, start, count }, data).result;
}

describe('MSI-X', () => {
  test('a vector of the device signals its eventfd and no other', () => {
    const user = bound();
    const events = [user.eventfd(), user.eventfd(), user.eventfd()];
    user.vfio.setTriggers({ index: MSIX, start: 1 }, [events[0]!.fd, events[1]!.fd]);
    raise(user, 1);
    raise(user, 2);
    raise(user, 2);
    raise(user, 3);
    expect(events.map(({ event }) => event.take())).toEqual([1n, 2n, 0n]);
    user.vfio.setTriggers({ index: MSIX, start: 2 }, [events[2]!.fd, events[2]!.fd]);
    raise(user, 2);
    raise(user, 1);
    expect(events.map(({ event }) => event.take())).toEqual([1n, 0n, 1n + 1n]);
  });

  test('taking a trigger away silences the vector, disabling all of them frees every message', () => {
    const user = bound();
    const { allocated } = user.machine.interrupts;
    const { fd, event } = user.eventfd();
    user.vfio.setTriggers({ index: MSIX }, [fd, fd]);
    user.vfio.setTriggers({ index: MSIX }, [-1]);
    raise(user, 0);
    expect(event.take()).toBe(0n);
    raise(user, 1);
    expect(event.take()).toBe(1n);
    user.vfio.disableIrqs(MSIX);
    expect(user.machine.interrupts.allocated).toBe(allocated);
    expect(user.machine.devices[0]!.pci.msix!.enabled).toBe(false);
    raise(user, 1);
    expect(event.take()).toBe(0n);
    expect(refusal(() => user.vfio.disableIrqs(MSIX))).toBe('EINVAL');
  });

  test('loopback: NONE and BOOL raise what has a trigger', () => {
    const user = bound();
    const { fd, event } = user.eventfd();
    const other = user.eventfd();
    expect(setIrqs(user, NONE | TRIGGER, MSIX, 0, 1)).toBe(-22);
    expect(setIrqs(user, EVENTFD | TRIGGER, MSIX, 0, 3, words(fd, -1, other.fd))).toBe(0);
    expect(setIrqs(user, NONE | TRIGGER, MSIX, 0, 8)).toBe(0);
    expect([event.take(), other.event.take()]).toEqual([1n, 1n]);
    expect(setIrqs(user, BOOL | TRIGGER, MSIX, 0, 3, Uint8Array.from([0, 1, 9]))).toBe(0);
    expect([event.take(), other.event.take()]).toEqual([0n, 1n]);
    user.vfio.raise({ index: MSIX, start: 2 });
    expect(other.event.take()).toBe(1n);
  });

  test('can be set up while memory decode is off', () => {
    const user = bound();
    const { fd, event } = user.eventfd();
    user.vfio.writeConfig(4, 2, 4);
    user.vfio.setTriggers({ index: MSIX }, [fd]);
    expect(user.vfio.readConfig(4, 2)).toBe(4);
    user.busMaster(true);
    raise(user, 0);
    expect(event.take()).toBe(1n);
  });

  test('a call that fails leaves every trigger as it was', () => {
    const user = bound();
    const { fd, event } = user.eventfd();
    const file = user.system.memfd('no eventfd', 4096);
    user.vfio.setTriggers({ index: MSIX }, [fd]);
    const { allocated } = user.machine.interrupts;
    expect(setIrqs(user, EVENTFD | TRIGGER, MSIX, 0, 2, words(-1, 999))).toBe(-9);
    expect(setIrqs(user, EVENTFD | TRIGGER, MSIX, 0, 2, words(-1, file))).toBe(-22);
    for (let nth = 1; ; nth++) {
      user.machine.kernel.failpoints.arm(nth);
      const code = refusal(() => user.vfio.setTriggers({ index: MSIX }, [-1, fd, fd]));
      const { hit } = user.machine.kernel.failpoints;
      user.machine.kernel.failpoints.arm(0);
      if (hit === null) {
        expect([code, nth > 2]).toEqual([null, true]);
        break;
      }
      expect(code).toBe('ENOMEM');
      expect(user.machine.interrupts.allocated).toBe(allocated);
      raise(user, 0);
      expect(event.take()).toBe(1n);
    }
    raise(user, 0);
    expect(event.take()).toBe(0n);
    raise(user, 2);
    expect(event.take()).toBe(1n);
  });
});

describe('information', () => {
  test('names what there is at each index', () => {
    const user = bound();
    const infos = [0, 1, MSIX, ERR, REQ].map((index) => {
      const { result, reply } = user.ioctl(uapi.VFIO_DEVICE_GET_IRQ_INFO, uapi.vfioIrqInfo, { index });
      return [result, reply.flags, reply.count];
    });
    expect(infos).toEqual([
      [0, 7, 0],
      [0, 9, 0],
      [0, 1, 8],
      [0, 9, 1],
      [0, 9, 1],
    ]);
    expect(user.ioctl(uapi.VFIO_DEVICE_GET_IRQ_INFO, uapi.vfioIrqInfo, { index: 5 }).result).toBe(-22);
    expect(user.ioctl(uapi.VFIO_DEVICE_GET_IRQ_INFO, uapi.vfioIrqInfo, { argsz: 15 }).result).toBe(-22);
  });
});

describe('the error and request interrupts', () => {
  test.each([ERR, REQ])('index %i holds one trigger, which only software raises', (index) => {
    const user = bound();
    const { fd, event } = user.eventfd();
    expect(setIrqs(user, NONE | TRIGGER, index, 0, 1)).toBe(-22);
    expect(setIrqs(user, EVENTFD | TRIGGER, index, 0, 1, words(fd))).toBe(0);
    expect(setIrqs(user, NONE | TRIGGER, index, 0, 1)).toBe(0);
    expect(setIrqs(user, BOOL | TRIGGER, index, 0, 1, new Uint8Array([1]))).toBe(0);
    expect(setIrqs(user, BOOL | TRIGGER, index, 0, 1, new Uint8Array([0]))).toBe(0);
    expect(event.take()).toBe(2n);
    expect(setIrqs(user, EVENTFD | TRIGGER, index, 0, 1, words(-2))).toBe(0);
    expect(setIrqs(user, NONE | TRIGGER, index, 0, 1)).toBe(0);
    expect(event.take()).toBe(1n);
    expect(setIrqs(user, EVENTFD | TRIGGER, index, 0, 0)).toBe(-22);
    expect(setIrqs(user, NONE | TRIGGER, index, 0, 0)).toBe(0);
    expect(setIrqs(user, NONE | TRIGGER, index, 0, 1)).toBe(-22);
    expect(setIrqs(user, NONE | MASK, index, 0, 1)).toBe(-25);
  });
});

describe('what SET_IRQS refuses', () => {
  const cases: [string, number, number, number, number, number, Uint8Array?][] = [
    ['no data type', -22, TRIGGER, MSIX, 0, 1],
    ['two data types', -22, NONE | BOOL | TRIGGER, MSIX, 0, 1],
    ['an unknown flag', -22, NONE | TRIGGER | 64, MSIX, 0, 1],
    ['an unknown index', -22, NONE | TRIGGER, 5, 0, 1],
    ['an index of 2^32 - 1', -22, NONE | TRIGGER, 0xffffffff, 0, 1],
    ['a start past the end', -22, NONE | TRIGGER, MSIX, 8, 0],
    ['a range past the end', -22, EVENTFD | TRIGGER, MSIX, 7, 2, words(-1, -1)],
    ['a range that wraps', -22, NONE | TRIGGER, MSIX, 1, 0xffffffff],
    ['data shorter than the count', -22, EVENTFD | TRIGGER, MSIX, 0, 2, words(-1)],
    ['interrupts the device has not', -22, NONE | TRIGGER, 0, 0, 1],
    ['no action', -25, NONE, MSIX, 0, 1],
    ['masking MSI-X', -25, NONE | MASK, MSIX, 0, 1],
    ['unmasking MSI-X', -25, NONE | UNMASK, MSIX, 0, 1],
    ['two actions', -25, NONE | MASK | TRIGGER, MSIX, 0, 1],
    ['enabling no vector', -34, EVENTFD | TRIGGER, MSIX, 0, 0],
  ];
  test.each(cases)('%s', (_name, result, flags, index, start, count, data) => {
    expect(setIrqs(bound(), flags, index, start, count, data)).toBe(result);
  });

  test('a structure that is too short', () => {
    const user = bound();
    const { result } = user.ioctl(uapi.VFIO_DEVICE_SET_IRQS, uapi.vfioIrqSet, { argsz: 19, flags: NONE | TRIGGER });
    expect(result).toBe(-22);
  });
});
