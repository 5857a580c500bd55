/** Times jobs by the CPU time of this process and hands the results to whoever started it. */

/** One measurement as a process reports it. */
export type Sample = {
  name: string;
  /** Nanoseconds of CPU time per operation, the median over the passes. */
  ns: number;
  checksum: number;
  /** Bytes that the JavaScript heap grew by per operation. */
  bytes: number;
};

/** Passes before the job is measured, and while it is. */
export type Passes = { warm: number; measured: number };

const PASSES: Passes = { warm: 12, measured: 15 };

/** Ends a part of a pass; null ends what is not measured. */
export type Mark = (part: number | null) => void;

function cpuNs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) * 1000;
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[values.length >> 1]!;
}

/** Runs `pass`, which does `operations` operations and gives a checksum, until it is warm and then for the record. */
export function measure(name: string, operations: number, pass: () => number, passes: Passes = PASSES): Sample {
  const body = (mark: Mark): number => {
    const checksum = pass();
    mark(0);
    return checksum;
  };
  return measureParts([name], operations, body, passes)[0]!;
}

/** As `measure`, of a pass in several parts: it calls `mark` at the end of each. */
export function measureParts(
  names: readonly string[],
  operations: number,
  pass: (mark: Mark) => number,
  passes: Passes = PASSES,
): Sample[] {
  const times: number[][] = names.map(() => []);
  const growth: number[][] = names.map(() => []);
  let checksum = 0;
  let from = 0;
  let heap = 0;
  let record = false;
  const mark = (part: number | null): void => {
    const now = cpuNs();
    if (record && part !== null) {
      times[part]!.push((now - from) / operations);
      growth[part]!.push((process.memoryUsage().heapUsed - heap) / operations);
    }
    heap = process.memoryUsage().heapUsed;
    from = cpuNs();
  };
  for (let count = -passes.warm; count < passes.measured; count++) {
    record = count >= 0;
    mark(null);
    checksum = pass(mark);
  }
  return names.map((name, part) => ({
    name,
    ns: median(times[part]!),
    checksum: checksum >>> 0,
    bytes: Math.max(0, median(growth[part]!)),
  }));
}

/** A line of JSON for each. */
export function print(...samples: Sample[]): void {
  for (const sample of samples) console.log(JSON.stringify(sample));
}
