// What the packages use of WebAssembly. The full declarations lie in TypeScript's DOM library, which would let
// library sources use browser-only APIs unnoticed.

declare namespace WebAssembly {
  type MemoryDescriptor = { initial: number; maximum?: number; shared?: boolean };
  class Memory {
    constructor(descriptor: MemoryDescriptor);
    readonly buffer: ArrayBuffer;
    grow(delta: number): number;
  }

  class Global {
    constructor(descriptor: { value: 'i32' | 'i64' | 'f32' | 'f64'; mutable?: boolean }, value?: number | bigint);
    value: number;
  }

  type ImportValue = Memory | Global | number | ((...args: never[]) => unknown);
  type Imports = Record<string, Record<string, ImportValue>>;
  type Exports = Record<string, unknown>;

  class Module {
    constructor(bytes: ArrayBuffer | ArrayBufferView);
  }

  class Instance {
    constructor(module: Module, imports?: Imports);
    readonly exports: Exports;
  }

  function validate(bytes: ArrayBuffer | ArrayBufferView): boolean;
}
