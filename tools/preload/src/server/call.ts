/** A system call that a program makes on a file of the server's, whoever has caught it, and what it comes to. */

/** Names an open file for as long as a program has it open. */
export type FileKey = number;

/** A descriptor that the program has made and that nothing is behind yet. */
export type Offer = { readonly key: FileKey; readonly fd: number };

type On = { readonly file: FileKey };

export type Call =
  | { readonly kind: 'open'; readonly path: string }
  | (On & { readonly kind: 'ioctl'; readonly request: number; readonly argument: bigint })
  | (On & {
      readonly kind: 'read' | 'write';
      readonly buffer: bigint;
      readonly bytes: bigint;
      /** The file offset of pread(2) and pwrite(2); null for read(2) and write(2). */
      readonly position: bigint | null;
    })
  | (On & {
      readonly kind: 'mmap';
      readonly length: bigint;
      /** PROT_ bits, which are hw's ACCESS_ bits. */
      readonly protection: number;
      readonly shared: boolean;
      readonly offset: bigint;
    })
  /** The process has changed its mappings since it mapped a served file. */
  | { readonly kind: 'mappings' }
  | { readonly kind: 'status'; readonly pid: number }
  /** The device node at a path, or that an open file is of. */
  | { readonly kind: 'node'; readonly path: string }
  | (On & { readonly kind: 'node-of' });

export type CallContext = {
  /** The thread that calls. */
  readonly tid: number;
  /** Changes when the program's mappings have. */
  readonly layout: number;
  /** For a call that gives a descriptor: open(2) always has one. */
  readonly offer: Offer | null;
};

export type Answer = {
  /** What the system call gives: >= 0, or a negative errno. */
  readonly result: number;
  /** Numbers besides: of mmap, that of the file to map; of status, KiB pinned and locked; of node and node-of, major and minor. */
  readonly values?: readonly [bigint, bigint];
  /** The offer is a descriptor now. */
  readonly offerTaken?: boolean;
  /** Nothing has happened; to be made again with an offer. */
  readonly offerWanted?: boolean;
  /** Nothing has happened; to be made again when the program's eventfd `fd` can be signalled by `key`. */
  readonly holdWanted?: { readonly fd: number; readonly key: bigint };
};
