/* How full BPF maps are, for `cargo xtask soak`.
 *
 * For each line of map ids on stdin: a line "NAME SORT ENTRIES MAX" for each of them that is a hash,
 * SORT being "hash" or "lru", then the line ".". Arrays are always full and are left out. Maps are
 * only read.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int bpf(int command, union bpf_attr *attributes) {
    return syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

/* Entries of a hash; -1 on an error. All are asked for at once (BPF_MAP_LOOKUP_BATCH, Linux 5.6): a
 * walk from key to key starts again whenever the key at hand is removed meanwhile. */
static long entries(int map, const struct bpf_map_info *info) {
    /* A bucket is copied whole or not at all, so there has to be room behind the last entry. */
    uint32_t room = info->max_entries + 64, cpus = sysconf(_SC_NPROCESSORS_CONF);
    int per_cpu = info->type == BPF_MAP_TYPE_PERCPU_HASH || info->type == BPF_MAP_TYPE_LRU_PERCPU_HASH;
    size_t value = per_cpu ? ((info->value_size + 7) & ~7u) * (size_t)cpus : info->value_size;
    char *keys = malloc((size_t)room * info->key_size), *values = malloc((size_t)room * value);
    uint64_t at = 0;
    long found = 0;
    for (int rounds = 0; keys && values && rounds < 64; rounds++) {
        union bpf_attr ask = {0};
        ask.batch.in_batch = rounds ? (uintptr_t)&at : 0;
        ask.batch.out_batch = (uintptr_t)&at;
        ask.batch.keys = (uintptr_t)keys;
        ask.batch.values = (uintptr_t)values;
        ask.batch.count = room;
        ask.batch.map_fd = map;
        int failed = bpf(BPF_MAP_LOOKUP_BATCH, &ask);
        if (failed && errno != ENOENT) {
            found = -1;
            break;
        }
        found += ask.batch.count;
        if (failed) break; /* ENOENT: that was the last bucket. */
    }
    if (!keys || !values) found = -1;
    free(keys);
    free(values);
    return found;
}

static const char *sort(uint32_t type) {
    switch (type) {
    case BPF_MAP_TYPE_HASH:
    case BPF_MAP_TYPE_PERCPU_HASH: return "hash";
    case BPF_MAP_TYPE_LRU_HASH:
    case BPF_MAP_TYPE_LRU_PERCPU_HASH: return "lru";
    default: return NULL;
    }
}

static void show(uint32_t id) {
    union bpf_attr open = {0};
    open.map_id = id;
    open.open_flags = BPF_F_RDONLY;
    int map = bpf(BPF_MAP_GET_FD_BY_ID, &open);
    if (map < 0) return;
    struct bpf_map_info info = {0};
    union bpf_attr ask = {0};
    ask.info.bpf_fd = map;
    ask.info.info_len = sizeof info;
    ask.info.info = (uintptr_t)&info;
    if (bpf(BPF_OBJ_GET_INFO_BY_FD, &ask) == 0 && sort(info.type)) {
        long count = entries(map, &info);
        if (count >= 0) printf("%s %s %ld %u\n", info.name, sort(info.type), count, info.max_entries);
    }
    close(map);
}

int main(void) {
    static char line[4096];
    while (fgets(line, sizeof line, stdin)) {
        for (char *id = strtok(line, " \n"); id; id = strtok(NULL, " \n")) show(strtoul(id, NULL, 10));
        puts(".");
        fflush(stdout);
    }
    return 0;
}
