/** What is measured, in the order of the report, with the most that it may cost against the C side. */

export type Budget = {
  /** The name both sides print. */
  name: string;
  title: string;
  /** TypeScript time over C time; null where none is set. */
  ratio: number | null;
};

export const budgets: readonly Budget[] = [
  { name: 'iotlb', title: 'IOTLB hit, context and PASID look-up included', ratio: 1.25 },
  { name: 'walk', title: '4-level first-stage walk', ratio: 2.0 },
  { name: 'nested', title: 'nested 4x4 walk', ratio: 2.0 },
  { name: 'mixed', title: 'walks over five kinds of tables, mixed', ratio: 2.0 },
  { name: 'map-4k', title: 'map 4 KiB pages in a range, per page', ratio: 3.1 },
  { name: 'unmap-4k', title: 'unmap 4 KiB pages in a range, per page', ratio: 2.5 },
  { name: 'map-2m', title: 'map 2 MiB pages in a range, per page', ratio: null },
  { name: 'unmap-2m', title: 'unmap 2 MiB pages in a range, per page', ratio: null },
  { name: 'map-1g', title: 'map 1 GiB pages in a range, per page', ratio: null },
  { name: 'unmap-1g', title: 'unmap 1 GiB pages in a range, per page', ratio: null },
  { name: 'dma', title: 'DMA write of 4 KiB through an IOTLB hit', ratio: 1.6 },
];

/** The guest's integer loop, in million instructions per second of CPU time: at least. */
export const GUEST_MIPS = 60;
/** Bytes of JavaScript heap per operation that count as none: what the clock itself leaves, spread over a pass. */
export const NO_BYTES = 0.5;
