/*
 * Times jobs, by the CPU time of this process unless CLOCK says otherwise. One line for each: name, nanoseconds per
 * operation, checksum.
 */
#ifndef CLOCK
#define CLOCK CLOCK_PROCESS_CPUTIME_ID
#endif

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

#define WARM 3
#define PASSES 15

static double median(double *times)
{
	qsort(times, PASSES, sizeof *times, compare);
	return times[PASSES / 2];
}

static void report(const char *name, double *times, double operations, u32 checksum)
{
	printf("%s %.4f %u\n", name, median(times) / operations, checksum);
}

#define MEASURE(name, operations, ...)                          \
	do {                                                    \
		double times[PASSES];                           \
		u32 sum = 0;                                    \
		for (int pass = -WARM; pass < PASSES; pass++) { \
			double start = now_ns();                \
			sum = 0;                                \
			__VA_ARGS__;                            \
			if (pass >= 0)                          \
				times[pass] = now_ns() - start; \
		}                                               \
		report(name, times, operations, sum);           \
	} while (0)
