/**
 * C structures in byte arrays: natural alignment, little-endian, as the x86-64 ABI lays them out. A 64-bit field is a
 * bigint, every other a number.
 */

const WIDTHS = { u8: 1, u16: 2, u32: 4, s32: 4, u64: 8 } as const;

/** Type of one field, as in linux/types.h without the underscores. */
export type FieldType = keyof typeof WIDTHS;

export type Fields = { readonly [name: string]: FieldType };

/** A structure's values as an object. */
export type StructValues<F extends Fields> = { -readonly [K in keyof F]: F[K] extends 'u64' ? bigint : number };

export type Struct<F extends Fields> = {
  /** Bytes, padding at the end included. */
  readonly size: number;
  /** Byte offset of a field. */
  offset(name: keyof F): number;
  /** Byte offset after a field (Linux: offsetofend). */
  end(name: keyof F): number;
  /** Reads the structure at byte `at`, which must lie within `bytes`. */
  read(bytes: Uint8Array, at?: number): StructValues<F>;
  /** Stores the structure at byte `at`; padding is left as it is. Values are cut to their field's width. */
  write(values: StructValues<F>, bytes: Uint8Array, at?: number): void;
};

/** The structure with `fields` in declaration order. */
export function struct<F extends Fields>(fields: F): Struct<F> {
  const names = Object.keys(fields) as (keyof F & string)[];
  const offsets = new Map<keyof F, number>();
  let next = 0;
  let alignment = 1;
  for (const name of names) {
    const width = WIDTHS[fields[name] as FieldType];
    next = Math.ceil(next / width) * width;
    offsets.set(name, next);
    next += width;
    alignment = Math.max(alignment, width);
  }
  const size = Math.ceil(next / alignment) * alignment;
  const offset = (name: keyof F): number => offsets.get(name)!;
  return {
    size,
    offset,
    end: (name) => offset(name) + WIDTHS[fields[name] as FieldType],
    read(bytes, at = 0) {
      const view = new DataView(bytes.buffer, bytes.byteOffset + at, size);
      const values: { [name: string]: number | bigint } = {};
      for (const name of names) values[name] = load(view, offset(name), fields[name] as FieldType);
      return values as StructValues<F>;
    },
    write(values, bytes, at = 0) {
      const view = new DataView(bytes.buffer, bytes.byteOffset + at, size);
      for (const name of names) store(view, offset(name), fields[name] as FieldType, values[name]);
    },
  };
}

function load(view: DataView, at: number, type: FieldType): number | bigint {
  switch (type) {
    case 'u8':
      return view.getUint8(at);
    case 'u16':
      return view.getUint16(at, true);
    case 'u32':
      return view.getUint32(at, true);
    case 's32':
      return view.getInt32(at, true);
    case 'u64':
      return view.getBigUint64(at, true);
  }
}

function store(view: DataView, at: number, type: FieldType, value: number | bigint): void {
  if (type === 'u64') view.setBigUint64(at, value as bigint, true);
  else if (type === 'u8') view.setUint8(at, value as number);
  else if (type === 'u16') view.setUint16(at, value as number, true);
  else view.setUint32(at, value as number, true);
}
