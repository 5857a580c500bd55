/* iopf.c: page faults of the device. */

#pragma once

#include "types.h"

/* Page-request groups answered. Each group counts once, whatever the number of its requests. */
extern u64 iopf_groups, iopf_responses;

/* Handles and answers everything in the page-request queue. */
void iopf_serve(void);
