/** What is measured, in the order of the report, with the most that it may cost. */

export type Job = {
  /** The names that both sides print; what they cost is added up. */
  names: readonly string[];
  title: string;
  /** TypeScript time over C time; null where none is set. */
  ratio: number | null;
  /** Nanoseconds of the TypeScript side, on any machine: at most. */
  ns?: number;
};

/** Jobs that run in one process on each side. */
export type Suite = {
  title: string;
  /** A worker in this folder, or a program in `../c` whose calls go to the preload server. */
  ts: { readonly worker: string } | { readonly preloaded: string };
  /** A program in `../c`. */
  c: string;
  jobs: readonly Job[];
};

function job(name: string, title: string, ratio: number | null = null): Job {
  return { names: [name], title, ratio };
}

export const suites: readonly Suite[] = [
  {
    title: 'Translation, page tables, DMA',
    ts: { worker: 'translation/worker.ts' },
    c: 'translation.c',
    jobs: [
      job('iotlb', 'IOTLB hit, context and PASID look-up included', 1.25),
      job('walk', '4-level first-stage walk', 2.0),
      job('nested', 'nested 4x4 walk', 2.0),
      job('mixed', 'walks over five kinds of tables, mixed', 2.0),
      job('map-4k', 'map 4 KiB pages in a range, per page', 3.1),
      job('unmap-4k', 'unmap 4 KiB pages in a range, per page', 2.5),
      job('map-2m', 'map 2 MiB pages in a range, per page'),
      job('unmap-2m', 'unmap 2 MiB pages in a range, per page'),
      job('map-1g', 'map 1 GiB pages in a range, per page'),
      job('unmap-1g', 'unmap 1 GiB pages in a range, per page'),
      job('dma', 'DMA write of 4 KiB through an IOTLB hit', 1.6),
    ],
  },
  {
    title: '/dev/iommu (pages are of 4 KiB)',
    ts: { worker: 'ioas/worker.ts' },
    c: 'ioas.c',
    jobs: [
      { names: ['map-64g', 'unmap-64g'], title: 'map and unmap 64 GiB in 4 KiB leaves, per page', ratio: 2.0 },
      job('map-64g', 'of that, map'),
      job('unmap-64g', 'of that, unmap'),
      job('map-4k', 'map 1 GiB of scattered frames, per page'),
      job('unmap-4k', 'unmap it, per page'),
      job('map-4k-2', 'map it in 2 domains, per page'),
      job('unmap-4k-2', 'unmap it from 2 domains, per page'),
      job('map-4k-8', 'map it in 8 domains, per page'),
      job('unmap-4k-8', 'unmap it from 8 domains, per page'),
      job('map-2m', 'map 1 GiB in frames that adjoin in 2 MiB, per page'),
      job('unmap-2m', 'unmap it, per page'),
      job('map-file', 'map 1 GiB of a memory file, scattered, per page'),
      job('unmap-file', 'unmap it, per page'),
      job('dirty-none', 'dirty bitmap of 128 MiB, none dirty, per page'),
      job('dirty-half', 'dirty bitmap of 128 MiB, every other dirty, per page'),
      job('dirty-all', 'dirty bitmap of 128 MiB, all dirty, per page'),
      job('area-lookup@100000', 'look an area up among 100,000', 1.0),
      job('area-update@100000', 'take an area out and put it back, of 100,000'),
      { names: ['first-fit@100000'], title: 'first fit among 100,000 areas', ratio: null, ns: 1000 },
      { names: ['first-fit@1000000'], title: 'first fit among 1,000,000 areas', ratio: null, ns: 1000 },
      job('map-page@100', 'map and unmap one page beside 100 areas'),
      job('ioctl-query', 'ioctl IOAS_IOVA_RANGES; C: ioctl FIONREAD of Linux'),
      job('ioctl-map', 'ioctls IOAS_MAP and IOAS_UNMAP of a page a device can reach'),
    ],
  },
  {
    title: 'Through the preload server, wall time; C: a bare Unix socket',
    ts: { preloaded: 'preload.c' },
    c: 'socket.c',
    jobs: [
      job('preload-query', 'ioctl IOAS_IOVA_RANGES; C: a question and an answer'),
      job('preload-map', 'ioctls IOAS_MAP and IOAS_UNMAP of a page; C: two of both'),
    ],
  },
];

/** The guest's integer loop, in million instructions per second of CPU time: at least. */
export const GUEST_MIPS = 60;
/** Bytes of JavaScript heap per operation that count as none: what the clock itself leaves, spread over a pass. */
export const NO_BYTES = 0.5;

/** Jobs that are measured with more and more areas, as `name@areas`. */
export const growing: readonly { name: string; title: string }[] = [
  { name: 'area-lookup', title: 'look up' },
  { name: 'area-update', title: 'take out, put back' },
  { name: 'first-fit', title: 'first fit' },
  { name: 'map-page', title: 'map, unmap a page' },
];
export const AREA_COUNTS: readonly number[] = [100, 1000, 10_000, 100_000, 1_000_000];
