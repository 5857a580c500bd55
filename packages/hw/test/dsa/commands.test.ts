import { describe, expect, test } from 'vitest';
import { DSA_OPERATION as OP, DSA_STATUS as STATUS } from '../../src/dsa/descriptor-format.ts';
import {
  DSA_COMMAND as COMMAND,
  DSA_COMMAND_ERROR as ERROR,
  DSA_REGISTER as REG,
  DSA_STATE as STATE,
  SWERROR_COMMAND,
  SWERROR_PCI_CONFIGURATION,
} from '../../src/dsa/registers.ts';
import { BAR0, type DsaMachine, dsaMachine, PASID, type QueueOptions, RID } from './support.ts';

const COPY = { operation: OP.move, source: 0x10_0000, destination: 0x14_0000, size: 0x8000 };

/** A shared queue 0 and a dedicated queue 1, with pages for COPY and records, for two PASIDs. */
function working(options = {}) {
  const test = dsaMachine({ chunkBytes: 4096, ...options });
  test.mapRecords(PASID, PASID + 1).start([{ dedicated: false, threshold: 16 }, {}]);
  for (const pasid of [PASID, PASID + 1]) {
    for (let page = 0; page < 8; page++) {
      test.agent.map(RID, pasid, 0x100 + page, 0x200 + page);
      test.agent.map(RID, pasid, 0x140 + page, 0x210 + page);
    }
  }
  return test;
}

describe('Enable Device', () => {
  const configured = (test: DsaMachine) => {
    test.configureQueue(0);
    test.configureGroup(0, 1, 1);
  };
  const cases: [string, number, (test: DsaMachine) => void][] = [
    ['a configuration without a fault', ERROR.none, () => {}],
    ['nothing configured', ERROR.none, ({ command }) => command(COMMAND.resetDevice)],
    ['a device that is enabled', ERROR.deviceNotDisabled, ({ command }) => command(COMMAND.enableDevice)],
    ['no bus master', ERROR.busMaster, ({ config }) => config.write(4, 2, 2)],
    ['page requests without an allocation', ERROR.pageRequestAllocation, ({ config }) => config.pri(0)],
    ['too many queue entries', ERROR.queueSizes, ({ configureQueue }) => configureQueue(0, { size: 129 })],
    ['a group without engines', ERROR.groupIncomplete, ({ configureGroup }) => configureGroup(0, 1, 0)],
    ['a group without queues', ERROR.groupIncomplete, ({ configureGroup }) => configureGroup(1, 0, 2)],
    ['a queue in two groups', ERROR.groupQueues, ({ configureGroup }) => configureGroup(1, 1, 2, 1 << 20)],
    ['a queue in no group', ERROR.groupQueues, ({ configureQueue }) => configureQueue(1)],
    ['an engine in two groups', ERROR.groupEngines, ({ configureGroup }) => configureGroup(1, 2, 1, 1 << 20)],
    ['no read buffers allowed', ERROR.groupReadBuffers, ({ configureGroup }) => configureGroup(0, 1, 1, 0)],
    [
      'more read buffers than there are',
      ERROR.groupReadBuffers,
      ({ configureGroup }) => configureGroup(0, 1, 1, 97 << 20),
    ],
    [
      'fewer read buffers allowed than reserved',
      ERROR.groupReadBuffers,
      ({ configureGroup }) => configureGroup(0, 1, 1, (4 << 20) | (5 << 8)),
    ],
    [
      'more read buffers allowed than others leave',
      ERROR.groupReadBuffers,
      ({ configureGroup }) => configureGroup(1, 2, 2, (10 << 20) | (10 << 8)),
    ],
    [
      'more read buffers reserved than there are',
      ERROR.groupReadBuffers,
      ({ configureGroup }) => configureGroup(3, 0, 0, 97 << 8),
    ],
    ['a read buffer limit beyond them', ERROR.configuration, ({ write }) => write(REG.gencfg, 97)],
    ['an operand', ERROR.reservedField, () => {}],
  ];
  test.each(cases)('with %s gives %i', (name, error, prepare) => {
    const test = dsaMachine();
    configured(test);
    prepare(test);
    expect(test.command(COMMAND.enableDevice, name === 'an operand' ? 1 : 0)).toBe(error);
    const enabled = error === ERROR.none || error === ERROR.deviceNotDisabled;
    expect(test.read(REG.gensts) & 3).toBe(enabled ? STATE.enabled : STATE.disabled);
  });

  test('a group with a queue of size 0 is no error', () => {
    const { command, configureGroup } = dsaMachine();
    configureGroup(0, 1, 1);
    expect(command(COMMAND.enableDevice)).toBe(0);
  });
});

describe('Enable WQ', () => {
  const cases: [string, number, QueueOptions, ((test: DsaMachine) => void)?][] = [
    ['size 0', ERROR.queueSize, { size: 0 }],
    ['priority 0', ERROR.queuePriority, { priority: 0 }],
    ['shared mode without PASID', ERROR.pasidEnable, { dedicated: false, pasidEnable: false }],
    ['PASID in a function that may not send them', ERROR.pasidEnable, {}, ({ config }) => config.pasid(0)],
    ['batches larger than the device takes', ERROR.maxBatch, { maxBatchLg2: 11 }],
    [
      'privilege in a function that may not send it',
      ERROR.privileged,
      { privileged: true },
      ({ config }) => config.pasid(1),
    ],
    ['privilege that it may send', ERROR.none, { privileged: true }],
    ['no PASID in a dedicated queue', ERROR.none, { pasidEnable: false }],
    ['shared mode', ERROR.none, { dedicated: false, threshold: 4 }],
  ];
  test.each(cases)('with %s gives %i', (_name, error, queue, prepare) => {
    const test = dsaMachine();
    test.configureQueue(0, queue);
    test.configureGroup(0, 1, 1);
    expect(test.command(COMMAND.enableDevice)).toBe(0);
    prepare?.(test);
    expect(test.command(COMMAND.enableQueue, 0)).toBe(error);
    expect(test.read(REG.wqcfg + 24) >>> 30).toBe(error === ERROR.none ? 1 : 0);
  });

  test('needs a queue that exists, an enabled device and a disabled queue', () => {
    const { command, start } = dsaMachine();
    expect(command(COMMAND.enableQueue, 0)).toBe(ERROR.deviceNotEnabled);
    start([{}]);
    expect(command(COMMAND.enableQueue, 8)).toBe(ERROR.invalidQueue);
    expect(command(COMMAND.enableQueue, 0xfffff)).toBe(ERROR.invalidQueue);
    expect(command(COMMAND.enableQueue, 0)).toBe(ERROR.queueNotDisabled);
  });

  test('of a device with smaller transfers refuses larger ones', () => {
    const test = dsaMachine({ maxTransferLg2: 20 });
    expect(() => test.start([{ maxTransferLg2: 21 }])).toThrow(`enable queue: ${ERROR.maxTransfer}`);
  });

  test('of a device without block on fault refuses it', () => {
    const test = dsaMachine({ blockOnFault: false });
    expect(test.read(REG.gencap) & 1).toBe(0);
    expect(() => test.start([{}])).toThrow(`enable queue: ${ERROR.blockOnFault}`);
  });
});

describe('other commands', () => {
  test('unknown codes, reserved bits and wrong operands are errors', () => {
    const { command, write, scheduler, read, start } = dsaMachine();
    for (const code of [0, 13, 14, 15, 31]) expect(command(code)).toBe(ERROR.invalidCommand);
    write(REG.cmd, (COMMAND.drainAll << 20) | (1 << 27));
    scheduler.advance(1000);
    expect(read(REG.cmdsts)).toBe(ERROR.reservedField);
    for (const code of [2, 3, 4, 7, 8, 9, 10, 11, 12]) expect(command(code)).toBe(ERROR.notEnabled);
    start([{}]);
    for (const code of [2, 3, 4, 5]) expect(command(code, 1)).toBe(ERROR.reservedField);
    for (const code of [7, 8, 9, 10]) {
      expect(command(code, 0x100)).toBe(ERROR.invalidQueue);
      expect(command(code, 0x1_0001)).toBe(ERROR.invalidQueue);
      expect(command(code, 2)).toBe(ERROR.queueNotEnabled);
      expect(command(code, 3)).toBe(ERROR.queueNotEnabled);
      expect(command(code, 0)).toBe(ERROR.none);
    }
    for (const code of [3, 4, 11, 12]) expect(command(code)).toBe(ERROR.none);
    expect(command(COMMAND.disableDevice)).toBe(ERROR.none);
  });

  test('are active for a while, and one at a time', () => {
    const { write, read, scheduler } = dsaMachine();
    write(REG.genctrl, 1);
    write(REG.cmd, COMMAND.enableDevice << 20);
    expect(read(REG.cmdsts) >>> 31).toBe(1);
    write(REG.cmd, COMMAND.resetDevice << 20);
    expect((read(REG.swerror) >>> 8) & 0xff).toBe(SWERROR_COMMAND);
    expect(read(REG.intcause)).toBe(1);
    scheduler.advance(1000);
    expect(read(REG.cmdsts)).toBe(0);
    expect(read(REG.gensts) & 3).toBe(STATE.enabled);
    expect(read(REG.cmd)).toBe(COMMAND.enableDevice << 20);
  });

  test('interrupt when asked', () => {
    const { write, read, scheduler, agent, writeMsix } = dsaMachine();
    writeMsix(0);
    write(REG.cmd, COMMAND.enableDevice << 20);
    scheduler.advance(1000);
    expect([read(REG.intcause), agent.interrupts.length]).toEqual([0, 0]);
    write(REG.cmd, (COMMAND.disableDevice << 20) | 0x8000_0000);
    scheduler.advance(1000);
    expect(read(REG.intcause)).toBe(2);
    expect(agent.interrupts).toEqual([{ rid: RID, address: 0xfee0_0000, data: 0x40 }]);
    write(REG.intcause, 2);
    expect(read(REG.intcause)).toBe(0);
  });

  test('Disable WQ refuses new work, waits for the old, then disables', () => {
    const { post, write, read, scheduler, dsa, record, settle } = working();
    post(1, COPY);
    scheduler.advance(300);
    write(REG.cmd, (COMMAND.disableQueues << 20) | 2);
    scheduler.advance(250);
    expect(read(REG.cmdsts) >>> 31).toBe(1);
    expect(read(REG.wqcfg + 0x20 + 24) >>> 30).toBe(1);
    post(1, COPY);
    expect(dsa.dropped).toBe(1);
    settle();
    expect(record().status).toBe(STATUS.success);
    expect([read(REG.cmdsts), read(REG.wqcfg + 0x20 + 24) >>> 30, read(REG.wqcfg + 0x20)]).toEqual([0, 0, 16]);
    expect(read(REG.wqcfg + 24) >>> 30).toBe(1);
  });

  test('Drain WQ waits for the work that was there, and not for what comes after', () => {
    const { post, enqueue, write, read, scheduler, completions } = working();
    post(1, COPY);
    enqueue(0, { ...COPY, pasid: PASID });
    write(REG.cmd, (COMMAND.drainQueues << 20) | 2);
    scheduler.advance(250);
    post(1, COPY);
    while (read(REG.cmdsts) >>> 31 !== 0) scheduler.runNext();
    expect(completions().filter(({ queue }) => queue === 1).length).toBe(1);
    write(REG.cmd, COMMAND.drainAll << 20);
    scheduler.runNext();
    while (read(REG.cmdsts) >>> 31 !== 0) scheduler.runNext();
    expect(completions().length).toBe(3);
  });

  test('Drain PASID waits for one PASID in every queue; Abort PASID throws its work away', () => {
    const { post, enqueue, command, completions, dsa, settle } = working();
    enqueue(0, { ...COPY, pasid: PASID + 1 });
    post(1, COPY);
    enqueue(0, { ...COPY, pasid: PASID });
    enqueue(0, { ...COPY, pasid: PASID + 1 });
    expect(command(COMMAND.abortPasid, PASID + 1)).toBe(0);
    expect(dsa.aborted).toBe(2);
    expect(command(COMMAND.drainPasid, PASID)).toBe(0);
    expect(completions().map(({ pasid }) => pasid)).toEqual([PASID, PASID]);
    expect(dsa.outstanding).toBe(0);
    settle();
    expect(completions().length).toBe(2);
  });

  test('Reset WQ aborts, disables and clears the configuration of the queues named', () => {
    const { post, command, read, dsa, record, settle } = working();
    post(1, COPY);
    post(1, COPY);
    expect(command(COMMAND.resetQueues, 2)).toBe(0);
    expect(dsa.aborted).toBe(2);
    for (let i = 0; i < 8; i++) expect(read(REG.wqcfg + 0x20 + 4 * i)).toBe(0);
    expect(read(REG.wqcfg + 24) >>> 30).toBe(1);
    settle();
    expect(record().status).toBe(0);
  });

  test('Disable Device lets work end and disables every queue', () => {
    const { post, enqueue, command, read, record, dsa } = working();
    post(1, COPY);
    expect(command(COMMAND.disableDevice)).toBe(0);
    expect(record().status).toBe(STATUS.success);
    expect(read(REG.gensts) & 3).toBe(0);
    expect([0, 1].map((queue) => read(REG.wqcfg + 0x20 * queue + 24) >>> 30)).toEqual([0, 0]);
    expect(enqueue(0, COPY)).toBe(false);
    post(1, COPY);
    expect(dsa.outstanding).toBe(0);
  });

  test('interrupt handles are granted once, and not of what does not exist', () => {
    const { command, read } = dsaMachine({ interruptHandles: true });
    expect(read(REG.cmdcap)).toBe(0x7ffe);
    expect(command(COMMAND.requestInterruptHandle, 3)).toBe(3 << 8);
    expect(command(COMMAND.requestInterruptHandle, 3)).toBe(ERROR.noHandle);
    expect(command(COMMAND.requestInterruptHandle, 9)).toBe(ERROR.interruptIndex);
    expect(command(COMMAND.requestInterruptHandle, 0x1_0001)).toBe(ERROR.interruptIndex);
    expect(command(COMMAND.releaseInterruptHandle, 2)).toBe(ERROR.handleNotGranted);
    expect(command(COMMAND.releaseInterruptHandle, 3)).toBe(0);
    expect(command(COMMAND.releaseInterruptHandle, 3)).toBe(ERROR.handleNotGranted);
    expect(command(COMMAND.requestInterruptHandle, 3)).toBe(3 << 8);
    expect(command(COMMAND.resetDevice)).toBe(0);
    expect(command(COMMAND.releaseInterruptHandle, 3)).toBe(ERROR.handleNotGranted);
  });

  test('without bus mastering an enabled device halts until a function-level reset', () => {
    const { post, config, read, write, command, scheduler, dsa, bring, start, memory } = working();
    write(REG.genctrl, 3);
    post(1, COPY);
    scheduler.advance(200);
    config.write(4, 2, 2);
    expect([read(REG.gensts), read(REG.intcause)]).toEqual([STATE.halted | (1 << 2), 0x11]);
    expect((read(REG.swerror) >>> 8) & 0xff).toBe(SWERROR_PCI_CONFIGURATION);
    expect([dsa.outstanding, dsa.aborted]).toEqual([0, 1]);
    config.write(4, 2, 6);
    for (const code of [COMMAND.enableDevice, COMMAND.resetDevice, COMMAND.drainAll]) {
      expect(command(code)).toBe(ERROR.hardware);
    }
    config.write(config.standard().get(0x10)! + 8, 2, 0x8000);
    bring();
    expect(read(REG.gensts)).toBe(0);
    start([{}]);
    expect(memory.load(BAR0 + REG.swerror, 8)).toBe(0n);
  });

  test('a command that waits fails when the device halts', () => {
    const { post, config, read, write, scheduler } = working();
    post(1, COPY);
    write(REG.cmd, COMMAND.drainAll << 20);
    scheduler.advance(250);
    config.write(4, 2, 2);
    expect(read(REG.cmdsts)).toBe(ERROR.hardware);
  });
});
