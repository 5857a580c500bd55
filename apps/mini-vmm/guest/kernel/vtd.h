/* vtd.c: the remapping unit. */

#pragma once

#include "types.h"

/* A page request as the queue holds it. */
struct page_request {
  u16 rid;
  u16 group;
  u32 pasid;
  bool has_pasid, read, write, execute, privileged, last;
  u64 address;
};

#define RESPONSE_SUCCESS 0
#define RESPONSE_INVALID 1

/* Brings the unit up for the one function `rid`, whose PASIDs have `device_pasid_bits`. */
void vtd_init(u16 rid, u32 device_pasid_bits);
/* PASIDs are 1..vtd_last_pasid. */
extern u32 vtd_last_pasid;
/* Tables may have PTE_NO_EXECUTE. */
extern bool vtd_no_execute;
/* Fault records seen. */
extern u64 vtd_faults;

/* Makes the tables below `cr3` the first stage of `pasid`. */
void vtd_bind(u32 pid, u32 pasid, u64 cr3);
/* Takes the first stage away: no access with `pasid` gets through any more. */
void vtd_unbind(u32 pasid);
/* Waits until every page request of `pasid` that the unit took before now is in the queue and answered. */
void vtd_drain(u32 pasid);
/* Drops cached translations of pages that have left the tables. */
void vtd_invalidate(u32 pasid, u64 address, u64 bytes);

/* The queue's interrupt is taken: a request that comes later raises it again. */
void vtd_acknowledge_requests(void);
/* Takes the oldest request out of the queue. */
bool vtd_next_request(struct page_request *request);
/* Answers the group of `request`. */
void vtd_respond(const struct page_request *request, u32 code);
/* Reports and clears the fault records. */
void vtd_report_faults(void);
