/* /lab/metronome, under whatever name: wakes up each 10 ms, as cyclictest does, and says after each SAMPLES times on the console
 * how late it was, in us: "wake NAME SAMPLES P50 P99 MAX UPTIME_MS". */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PERIOD_NS 10000000L
#define SAMPLES 500

static int by_size(const void *one, const void *other)
{
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;

    return (a > b) - (a < b);
}

int main(int count, char **words)
{
    static int64_t late[SAMPLES];
    const char *slash = strrchr(words[0], '/'), *name = slash ? slash + 1 : words[0];
    struct timespec next, now;
    int console = open("/dev/ttyS0", O_WRONLY | O_NOCTTY);

    (void)count;
    if (console < 0)
        return 1;
    for (;;) {
        clock_gettime(CLOCK_MONOTONIC, &next);
        for (int sample = 0; sample < SAMPLES; sample++) {
            next.tv_nsec += PERIOD_NS;
            next.tv_sec += next.tv_nsec / 1000000000L;
            next.tv_nsec %= 1000000000L;
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
            clock_gettime(CLOCK_MONOTONIC, &now);
            late[sample] = ((now.tv_sec - next.tv_sec) * 1000000000L + now.tv_nsec - next.tv_nsec) / 1000;
        }
        qsort(late, SAMPLES, sizeof(*late), by_size);
        clock_gettime(CLOCK_BOOTTIME, &now);
        dprintf(console, "wake %s %d %lld %lld %lld %lld\n", name, SAMPLES, (long long)late[SAMPLES / 2],
                (long long)late[SAMPLES * 99 / 100], (long long)late[SAMPLES - 1],
                (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000);
    }
}
