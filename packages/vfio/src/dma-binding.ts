/** Who has a bound device's DMA: a /dev/iommu, or another file that owns address spaces. */
export type DmaBinding = {
  /** The kind of file, for messages. */
  readonly kind: string;
  /** Detaches the device everywhere and gives it up: its DMA is blocked on return. Never fails. */
  unbind(): void;
};
