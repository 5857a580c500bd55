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

const WARM = 12;
const PASSES = 15;

function cpuNs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) * 1000;
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[values.length >> 1]!;
}

/** Runs `pass`, which does `operations` operations and gives a checksum, until it is warm and then for the record. */
export function measure(name: string, operations: number, pass: () => number): Sample {
  return measureParts([name], operations, (mark) => {
    const checksum = pass();
    mark(0);
    return checksum;
  })[0]!;
}

/** As `measure`, of a pass in several parts: it calls `mark(part)` at the end of each. */
export function measureParts(
  names: readonly string[],
  operations: number,
  pass: (mark: (part: number) => void) => number,
): Sample[] {
  const times: number[][] = names.map(() => []);
  const growth: number[][] = names.map(() => []);
  let checksum = 0;
  let from = 0;
  let heap = 0;
  let record = false;
  const mark = (part: number): void => {
    const now = cpuNs();
    if (record) {
      times[part]!.push((now - from) / operations);
      growth[part]!.push((process.memoryUsage().heapUsed - heap) / operations);
    }
    heap = process.memoryUsage().heapUsed;
    from = cpuNs();
  };
  for (let count = -WARM; count < PASSES; count++) {
    record = count >= 0;
    heap = process.memoryUsage().heapUsed;
    from = cpuNs();
    checksum = pass(mark);
  }
  return names.map((name, part) => ({
    name,
    ns: median(times[part]!),
    checksum: checksum >>> 0,
    bytes: Math.max(0, median(growth[part]!)),
  }));
}
