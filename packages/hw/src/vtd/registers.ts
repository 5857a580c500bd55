/**
 * Registers of a VT-d remapping unit: offsets and fields (Intel Virtualization Technology for Directed I/O,
 * Architecture Specification, order number D51397, revision 4.1, chapter 11).
 *
 * Fields are masks over one 32-bit half, for fieldGet and fieldPrep. Of a 64-bit register `_LO_` is bits 31..0 and
 * `_HI_` bits 63..32.
 */

import { genmask } from '../bits.ts';

/** Bytes of register space: one 4 KiB page. */
export const VTD_REGISTER_SIZE = 0x1000;

export const REG_VER = 0x00;
export const REG_CAP = 0x08;
export const REG_ECAP = 0x10;
export const REG_GCMD = 0x18;
export const REG_GSTS = 0x1c;
export const REG_RTADDR = 0x20;
export const REG_CCMD = 0x28;
export const REG_FSTS = 0x34;
export const REG_FECTL = 0x38;
export const REG_FEDATA = 0x3c;
export const REG_FEADDR = 0x40;
export const REG_FEUADDR = 0x44;
export const REG_PMEN = 0x64;
export const REG_IQH = 0x80;
export const REG_IQT = 0x88;
export const REG_IQA = 0x90;
export const REG_ICS = 0x9c;
export const REG_IECTL = 0xa0;
export const REG_IEDATA = 0xa4;
export const REG_IEADDR = 0xa8;
export const REG_IEUADDR = 0xac;
export const REG_IQERCD = 0xb0;
export const REG_IRTA = 0xb8;
export const REG_PQH = 0xc0;
export const REG_PQT = 0xc8;
export const REG_PQA = 0xd0;
export const REG_PRS = 0xdc;
export const REG_PECTL = 0xe0;
export const REG_PEDATA = 0xe4;
export const REG_PEADDR = 0xe8;
export const REG_PEUADDR = 0xec;
/** Where this model puts the registers whose place ECAP.IRO and CAP.FRO tell. */
export const REG_IVA = 0xf0;
export const REG_IOTLB = 0xf8;
export const REG_FRCD = 0x400;
/** Bytes of one fault recording register. */
export const FRCD_SIZE = 16;

/** CAP: numbers of domains as 2^(4 + 2 * ND). */
export const CAP_LO_ND: number = genmask(2, 0);
export const CAP_LO_AFL: number = 1 << 3;
export const CAP_LO_RWBF: number = 1 << 4;
export const CAP_LO_PLMR: number = 1 << 5;
export const CAP_LO_PHMR: number = 1 << 6;
/** Caching mode: not-present and erroneous entries may be cached. */
export const CAP_LO_CM: number = 1 << 7;
/** Bit 1: 3 levels (39 bits), bit 2: 4 levels (48 bits), bit 3: 5 levels (57 bits). */
export const CAP_LO_SAGAW: number = genmask(12, 8);
/** Maximum guest address width - 1. */
export const CAP_LO_MGAW: number = genmask(21, 16);
export const CAP_LO_ZLR: number = 1 << 22;
/** Offset of the first fault recording register in units of 16 bytes: bits 7..0 here, bits 9..8 in the high half. */
export const CAP_LO_FRO: number = genmask(31, 24);
export const CAP_HI_FRO: number = genmask(1, 0);
/** Second-stage large pages: bit 0 2 MiB, bit 1 1 GiB. */
export const CAP_HI_SSLPS: number = genmask(5, 2);
export const CAP_HI_PSI: number = 1 << 7;
/** Number of fault recording registers - 1. */
export const CAP_HI_NFR: number = genmask(15, 8);
export const CAP_HI_MAMV: number = genmask(21, 16);
export const CAP_HI_DWD: number = 1 << 22;
export const CAP_HI_DRD: number = 1 << 23;
export const CAP_HI_FS1GP: number = 1 << 24;
export const CAP_HI_PI: number = 1 << 27;
export const CAP_HI_FS5LP: number = 1 << 28;
export const CAP_HI_ESIRTPS: number = 1 << 30;
export const CAP_HI_ESRTPS: number = 1 << 31;

export const ECAP_LO_C: number = 1 << 0;
export const ECAP_LO_QI: number = 1 << 1;
export const ECAP_LO_DT: number = 1 << 2;
export const ECAP_LO_IR: number = 1 << 3;
export const ECAP_LO_EIM: number = 1 << 4;
export const ECAP_LO_PT: number = 1 << 6;
export const ECAP_LO_SC: number = 1 << 7;
/** Offset of IVA in units of 16 bytes; IOTLB follows it. */
export const ECAP_LO_IRO: number = genmask(17, 8);
export const ECAP_LO_MHMV: number = genmask(23, 20);
export const ECAP_LO_MTS: number = 1 << 25;
export const ECAP_LO_NEST: number = 1 << 26;
export const ECAP_LO_PRS: number = 1 << 29;
export const ECAP_LO_ERS: number = 1 << 30;
export const ECAP_LO_SRS: number = 1 << 31;
export const ECAP_HI_NWFS: number = 1 << 1;
export const ECAP_HI_EAFS: number = 1 << 2;
/** PASID bits supported - 1. */
export const ECAP_HI_PSS: number = genmask(7, 3);
export const ECAP_HI_PASID: number = 1 << 8;
export const ECAP_HI_DIT: number = 1 << 9;
export const ECAP_HI_PDS: number = 1 << 10;
export const ECAP_HI_SMTS: number = 1 << 11;
export const ECAP_HI_VCS: number = 1 << 12;
export const ECAP_HI_SSADS: number = 1 << 13;
export const ECAP_HI_SSTS: number = 1 << 14;
export const ECAP_HI_FSTS: number = 1 << 15;
export const ECAP_HI_SMPWCS: number = 1 << 16;
export const ECAP_HI_RPS: number = 1 << 17;
export const ECAP_HI_ADMS: number = 1 << 20;
export const ECAP_HI_RPRIVS: number = 1 << 21;

/** GCMD and GSTS use the same bits. */
export const GCMD_CFI: number = 1 << 23;
export const GCMD_SIRTP: number = 1 << 24;
export const GCMD_IRE: number = 1 << 25;
export const GCMD_QIE: number = 1 << 26;
export const GCMD_WBF: number = 1 << 27;
export const GCMD_EAFL: number = 1 << 28;
export const GCMD_SFL: number = 1 << 29;
export const GCMD_SRTP: number = 1 << 30;
export const GCMD_TE: number = 1 << 31;

export const RTADDR_LO_TTM: number = genmask(11, 10);
/** Values of RTADDR.TTM. */
export const TTM_LEGACY = 0;
export const TTM_SCALABLE = 1;
export const TTM_ABORT_DMA = 3;

export const CCMD_LO_DID: number = genmask(15, 0);
export const CCMD_LO_SID: number = genmask(31, 16);
export const CCMD_HI_FM: number = genmask(1, 0);
export const CCMD_HI_CAIG: number = genmask(28, 27);
export const CCMD_HI_CIRG: number = genmask(30, 29);
export const CCMD_HI_ICC: number = 1 << 31;

export const IVA_LO_AM: number = genmask(5, 0);
export const IVA_LO_IH: number = 1 << 6;
export const IOTLB_HI_DID: number = genmask(15, 0);
export const IOTLB_HI_IAIG: number = genmask(26, 25);
export const IOTLB_HI_IIRG: number = genmask(29, 28);
export const IOTLB_HI_IVT: number = 1 << 31;

/** Invalidation granularities of CCMD and IOTLB; for CCMD `PAGE` is device-selective. */
export const GRANULARITY_GLOBAL = 1;
export const GRANULARITY_DOMAIN = 2;
export const GRANULARITY_PAGE = 3;

export const FSTS_PFO: number = 1 << 0;
export const FSTS_PPF: number = 1 << 1;
export const FSTS_IQE: number = 1 << 4;
export const FSTS_ICE: number = 1 << 5;
export const FSTS_ITE: number = 1 << 6;
export const FSTS_FRI: number = genmask(15, 8);

/** FECTL, IECTL and PECTL. */
export const EVENT_CONTROL_IP: number = 1 << 30;
export const EVENT_CONTROL_IM: number = 1 << 31;

/** FRCD by 32-bit word: words 0 and 1 hold the page address, or the interrupt index in bits 31..16 of word 1. */
export const FRCD2_SID: number = genmask(15, 0);
export const FRCD2_T2: number = 1 << 28;
export const FRCD2_PRIV: number = 1 << 29;
export const FRCD2_EXE: number = 1 << 30;
export const FRCD2_PP: number = 1 << 31;
export const FRCD3_FR: number = genmask(7, 0);
export const FRCD3_PV: number = genmask(27, 8);
export const FRCD3_AT: number = genmask(29, 28);
export const FRCD3_T1: number = 1 << 30;
export const FRCD3_F: number = 1 << 31;

/** IQH, IQT, PQH and PQT are byte offsets into their queues. */
export const IQ_OFFSET: number = genmask(18, 4);
export const PQ_OFFSET: number = genmask(18, 5);
/** Queue size: 2^QS pages of 4 KiB. */
export const IQA_LO_QS: number = genmask(2, 0);
/** Descriptors are 256 bits wide. */
export const IQA_LO_DW: number = 1 << 11;
export const PQA_LO_PQS: number = genmask(2, 0);

export const ICS_IWC: number = 1 << 0;

export const IQERCD_LO_IQEI: number = genmask(3, 0);
export const IQERCD_HI_ITESID: number = genmask(15, 0);
export const IQERCD_HI_ICESID: number = genmask(31, 16);
/** Values of IQERCD.IQEI. */
export const IQEI_INVALID_TAIL = 1;
export const IQEI_FETCH_ERROR = 2;
export const IQEI_INVALID_TYPE = 3;
export const IQEI_RESERVED_FIELD = 4;
export const IQEI_INVALID_WIDTH = 5;
export const IQEI_TAIL_MISALIGNED = 6;
export const IQEI_INVALID_TTM = 7;

/** Interrupt remapping table size: 2^(S + 1) entries. */
export const IRTA_LO_S: number = genmask(3, 0);
export const IRTA_LO_EIME: number = 1 << 11;

export const PRS_PPR: number = 1 << 0;
export const PRS_PRO: number = 1 << 1;
