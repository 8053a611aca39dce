/* /lab/workset WORD...: work over a set of memory that grows and shrinks, at an even pace, and its account once a second.
 *
 *   MIB@SECONDS   from then on the set has so much, in order; the first at 0
 *   cache=MIB     so much of /dev/vdb is looked at again and again, through the page cache
 *
 * First it touches nearly all memory once, as a guest has that has run for days, and reads the file. Then, ten times a second,
 * a unit of work: the set comes nearer to its size, and pages of it and of the file, chosen at random, are read, those of the
 * set changed. When the first set is there it says "workset: warm"; the seconds count from when somebody makes /run/go. A unit
 * that takes too long makes the next one late, and those that it overran are not made up for. The work is a child's. One that
 * is killed for want of memory is started again, and builds its set anew. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, MIB = 1 << 20, PERIOD_US = 100000, PHASES = 32 };
/* Of a unit: pages of the set, pages of the file, and the most by which the set grows (60 MiB a second). */
enum { SET_PAGES = 4096, FILE_PAGES = 256, GROWTH_MIB = 6 };

struct phase {
    long mib, second;
};

/* What the child counts and its parent reports. */
struct account {
    volatile uint64_t units, busy_us, longest_us, set_mib;
    /* When the current unit began, and the last one ended; 0: none. */
    volatile uint64_t began_us, ended_us;
    /* When the schedule began; 0: not yet. */
    volatile uint64_t start_us;
};

static struct phase phases[PHASES];
static int phase_count;
static long cache_mib, most_mib;
static struct account *account;
static int disk = -1;

static uint64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void sleep_until(uint64_t then_us)
{
    struct timespec then = { (time_t)(then_us / 1000000), (long)(then_us % 1000000 * 1000) };

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &then, NULL))
        ;
}

/* A file of /proc as it is now. Neither allocates: this must work when there is no memory left. */
static const char *contents(const char *path)
{
    static char text[16384];
    int file = open(path, O_RDONLY);
    ssize_t length = 0, more;

    while (file >= 0 && length < (ssize_t)sizeof(text) - 1
           && (more = read(file, text + length, sizeof(text) - 1 - (size_t)length)) > 0)
        length += more;
    if (file >= 0)
        close(file);
    text[length] = 0;
    return text;
}

/* The number behind a word that begins a line. */
static uint64_t value(const char *text, const char *word)
{
    const char *line = text;

    while (line && strncmp(line, word, strlen(word)))
        line = (line = strchr(line, '\n')) ? line + 1 : NULL;
    return line ? strtoull(line + strlen(word), NULL, 10) : 0;
}

static void set_oom_score(const char *score)
{
    int file = open("/proc/self/oom_score_adj", O_WRONLY);

    if (file < 0 || write(file, score, strlen(score)) < 0)
        dprintf(1, "workset: cannot set oom_score_adj\n");
    if (file >= 0)
        close(file);
}

static uint64_t target_mib(void)
{
    uint64_t start = account->start_us, second = start ? (now_us() - start) / 1000000 : 0, mib = 0;

    for (int i = 0; i < phase_count && (uint64_t)phases[i].second <= second; i++)
        mib = (uint64_t)phases[i].mib;
    return mib;
}

static uint64_t random_number(void)
{
    static uint64_t state = 88172645463325252;

    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static uint64_t sum(const volatile uint64_t *page)
{
    uint64_t total = 0;

    for (size_t word = 0; word < PAGE / sizeof(*page); word++)
        total += page[word];
    return total;
}

static void resize(char *set, uint64_t target)
{
    uint64_t size = account->set_mib;

    if (target < size) {
        madvise(set + target * MIB, (size - target) * MIB, MADV_DONTNEED);
        size = target;
    }
    for (uint64_t end = size + GROWTH_MIB < target ? size + GROWTH_MIB : target; size < end; size++)
        for (size_t at = 0; at < MIB; at += PAGE)
            *(volatile uint64_t *)(set + size * MIB + at) = size + at + 1;
    account->set_mib = size;
}

static void work(void)
{
    uint64_t next = now_us(), total = 0;
    char *set = mmap(NULL, (size_t)most_mib * MIB, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    const char *file = NULL;

    if (cache_mib)
        file = mmap(NULL, (size_t)cache_mib * MIB, PROT_READ, MAP_SHARED, disk, 0);
    if (set == MAP_FAILED || file == MAP_FAILED) {
        dprintf(1, "workset: cannot map its memory\n");
        _exit(1);
    }
    for (;;) {
        uint64_t took;

        account->began_us = now_us();
        resize(set, target_mib());
        for (int i = 0; i < SET_PAGES && account->set_mib; i++) {
            volatile uint64_t *page =
                (volatile uint64_t *)(set + random_number() % (account->set_mib * (MIB / PAGE)) * PAGE);

            page[0] = total += sum(page);
        }
        for (int i = 0; i < FILE_PAGES && file; i++)
            total += sum((const uint64_t *)(file + random_number() % ((uint64_t)cache_mib * (MIB / PAGE)) * PAGE));
        account->ended_us = now_us();
        took = account->ended_us - account->began_us;
        account->began_us = 0;
        account->busy_us += took;
        account->units++;
        if (took > account->longest_us)
            account->longest_us = took;
        do
            next += PERIOD_US;
        while (next < account->ended_us);
        sleep_until(next);
    }
}

static pid_t start_worker(void)
{
    pid_t child;

    account->set_mib = account->began_us = 0;
    account->ended_us = now_us();
    child = fork();
    if (child == 0) {
        set_oom_score("0");
        work();
    }
    return child;
}

/* Touches nearly all memory once, and reads the file. Returns whether that went well. */
static int warm_up(void)
{
    int status = 0;
    pid_t child = fork();

    if (child == 0) {
        size_t size = value(contents("/proc/meminfo"), "MemAvailable:") * 1024 / 100 * 95;
        char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        set_oom_score("0");
        for (size_t at = 0; memory != MAP_FAILED && at < size; at += PAGE)
            *(volatile uint64_t *)(memory + at) = at + 1;
        _exit(memory == MAP_FAILED);
    }
    waitpid(child, &status, 0);
    static char block[MIB];

    /* The disk stays open: its cache goes with the last who has it open. */
    for (long mib = 0; mib < cache_mib; mib++)
        if (pread(disk, block, MIB, (off_t)mib * MIB) != MIB)
            return 0;
    return status == 0;
}

static void report(uint64_t down_us, unsigned deaths)
{
    char line[1024];
    int length;
    uint64_t now = now_us(), began = account->began_us, busy = account->busy_us;
    uint64_t total, free, available, swap, swap_free;
    const char *text = contents("/proc/meminfo");

    total = value(text, "MemTotal:");
    free = value(text, "MemFree:");
    available = value(text, "MemAvailable:");
    swap = value(text, "SwapTotal:");
    swap_free = value(text, "SwapFree:");
    text = contents("/proc/vmstat");
    length = snprintf(line, sizeof(line),
        "workset t_ms=%llu target_mib=%llu set_mib=%llu units=%llu busy_us=%llu down_us=%llu longest_us=%llu deaths=%u"
        " total_kib=%llu free_kib=%llu available_kib=%llu swap_kib=%llu swapped_kib=%llu"
        " major_faults=%llu swap_in_pages=%llu swap_out_pages=%llu oom_kills=%llu end\n",
        (unsigned long long)(now - account->start_us) / 1000, (unsigned long long)target_mib(),
        (unsigned long long)account->set_mib, (unsigned long long)account->units,
        (unsigned long long)(busy + (began && now > began ? now - began : 0)), (unsigned long long)down_us,
        (unsigned long long)account->longest_us, deaths, (unsigned long long)total, (unsigned long long)free,
        (unsigned long long)available, (unsigned long long)swap, (unsigned long long)(swap - swap_free),
        (unsigned long long)value(text, "pgmajfault "), (unsigned long long)value(text, "pswpin "),
        (unsigned long long)value(text, "pswpout "), (unsigned long long)value(text, "oom_kill "));
    if (write(1, line, (size_t)length) != length)
        _exit(1);
}

static void watch(void)
{
    pid_t child = start_worker();
    uint64_t next = 0, down_us = 0;
    unsigned deaths = 0;
    int warm = 0;

    for (;;) {
        if (!warm && account->set_mib && account->set_mib == target_mib()) {
            warm = 1;
            dprintf(1, "workset: warm\n");
        }
        if (!next && !access("/run/go", F_OK)) {
            account->longest_us = 0;
            next = account->start_us = now_us();
        }
        if (child < 0 || waitpid(child, NULL, WNOHANG) == child) {
            /* Since its last unit nothing was done. */
            down_us += now_us() - account->ended_us;
            deaths++;
            child = start_worker();
        }
        if (next && now_us() >= next) {
            report(down_us, deaths);
            next += 1000000;
        }
        usleep(50000);
    }
}

int main(int count, char **words)
{
    for (int i = 1; i < count; i++) {
        struct phase phase;

        if (sscanf(words[i], "cache=%ld", &cache_mib) == 1)
            continue;
        if (phase_count == PHASES || sscanf(words[i], "%ld@%ld", &phase.mib, &phase.second) != 2) {
            dprintf(1, "workset: what is %s?\n", words[i]);
            return 1;
        }
        phases[phase_count++] = phase;
        most_mib = phase.mib > most_mib ? phase.mib : most_mib;
    }
    account = mmap(NULL, sizeof(*account), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (cache_mib)
        disk = open("/dev/vdb", O_RDONLY);
    if (!most_mib || account == MAP_FAILED || !warm_up()) {
        dprintf(1, "workset: cannot begin\n");
        return 1;
    }
    /* Whoever is killed for want of memory or swapped out, it is not who tells of it. */
    set_oom_score("-1000");
    if (mlockall(MCL_CURRENT))
        dprintf(1, "workset: cannot stay in memory\n");
    watch();
}
