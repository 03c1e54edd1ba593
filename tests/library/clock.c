/* A wall clock that somebody sets by an hour, there and back, whenever it is read. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *now)
{
	static int reads;
	int result = syscall(SYS_clock_gettime, id, now);
	if (id == CLOCK_REALTIME && __sync_fetch_and_add(&reads, 1) % 2)
		now->tv_sec += 3600;
	return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec precise;
	(void)zone;
	int result = clock_gettime(CLOCK_REALTIME, &precise);
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return result;
}
