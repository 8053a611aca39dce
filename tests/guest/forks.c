/* /lab/forks RATE: forks RATE children a second, as evenly as it can; each is gone at once, and copies nothing (vfork), which an
 * emulated guest could not do that often. */
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words)
{
    long pause = count == 2 ? 1000000000L / atol(words[1]) : 0;
    struct timespec next;

    if (pause <= 0)
        return 1;
    signal(SIGCHLD, SIG_IGN);
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (;;) {
        if (vfork() == 0)
            _exit(0);
        next.tv_nsec += pause;
        next.tv_sec += next.tv_nsec / 1000000000L;
        next.tv_nsec %= 1000000000L;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
    }
}
