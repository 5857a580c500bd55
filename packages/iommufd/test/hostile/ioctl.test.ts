import { expect, test } from 'vitest';
import { HostileMachine } from './hostile-machine.ts';
import { HostileProgram } from './hostile-program.ts';

/** Calls that one program makes before it ends and the next one starts. */
const LIFE = 1_000;
const CALLS = Number(process.env['HOSTILE_CALLS'] ?? 50_000);
const SEED = Number(process.env['HOSTILE_SEED'] ?? 1);

/** `reached`: without these the programs do not get far enough to do harm. */
test.each([
  {
    on: 'VT-d',
    mocks: false,
    reached: ['IOMMU_IOAS_COPY', 'IOMMU_HWPT_INVALIDATE', 'device_replace', 'fault_read', 'VFIO_IOMMU_MAP_DMA'],
  },
  {
    on: 'VT-d and the mock IOMMU',
    mocks: true,
    reached: ['IOMMU_VEVENTQ_ALLOC', 'IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE', 'fault_read'],
  },
])(
  `${CALLS} calls of hostile programs on $on give documented results and leave nothing behind`,
  ({ mocks, reached }) => {
    const host = new HostileMachine(SEED, mocks);
    for (let first = 0; first < CALLS; first += LIFE) {
      const program = new HostileProgram(host);
      for (let call = first; call < Math.min(first + LIFE, CALLS); call++) {
        try {
          program.step();
        } catch (error) {
          throw new Error(`seed ${SEED}, call ${call}`, { cause: error });
        }
      }
      program.end();
      expect(host.left).toEqual({ contexts: 0, pinned: 0, locked: 0, frames: 0, owned: 0, mocks: 0 });
    }
    if (process.env['HOSTILE_SHOW'] !== undefined) console.log(host.results, host.done);
    expect(reached.filter((name) => !host.done.has(name))).toEqual([]);
  },
);
