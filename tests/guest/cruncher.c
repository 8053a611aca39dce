/* /lab/cruncher, under whatever name: works through units of the same size for ever, and says each second or so on the
 * console how many it has done by when: "work NAME UNITS UPTIME_MS". A unit walks over 64 KiB, so that cold caches count. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WORDS 16384

static uint64_t uptime_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int main(int count, char **words)
{
    static uint32_t table[WORDS];
    const char *slash = strrchr(words[0], '/'), *name = slash ? slash + 1 : words[0];
    uint64_t units = 0, said = uptime_ms();
    uint32_t state = 1;
    int console = open("/dev/ttyS0", O_WRONLY | O_NOCTTY);

    (void)count;
    if (console < 0)
        return 1;
    for (;;) {
        for (int turn = 0; turn < WORDS; turn++) {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            table[state % WORDS] += state;
        }
        units++;
        uint64_t now = uptime_ms();
        if (now >= said + 1000) {
            dprintf(console, "work %s %llu %llu\n", name, (unsigned long long)units, (unsigned long long)now);
            said = now;
        }
    }
}
