/* What the kernel counts of BPF programs, for `cargo xtask bench`. While this runs, run times are
 * counted (BPF_ENABLE_STATS, bpf(2): the kernel stops by itself when this ends) and an empty program
 * is attached to sched_process_exit: what it is said to take is what measuring takes.
 *
 * For each line on stdin: a line "ID HOOK RUN_TIME_NS RUN_COUNT" for each program on the machine,
 * the empty one as "ID empty ...", then the line ".".
 */
#define _GNU_SOURCE
#include <linux/bpf.h>
#include <linux/btf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int bpf(int command, union bpf_attr *attributes) {
    return syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

static int empty(void) {
    struct bpf_insn code[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 0},
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr load = {
        .prog_type = BPF_PROG_TYPE_RAW_TRACEPOINT,
        .insns = (uint64_t)(uintptr_t)code,
        .insn_cnt = 2,
        .license = (uint64_t)(uintptr_t)"GPL",
    };
    strcpy(load.prog_name, "empty");
    int program = bpf(BPF_PROG_LOAD, &load);
    if (program < 0) return -1;
    union bpf_attr attach = {0};
    attach.raw_tracepoint.name = (uint64_t)(uintptr_t)"sched_process_exit";
    attach.raw_tracepoint.prog_fd = program;
    return bpf(BPF_RAW_TRACEPOINT_OPEN, &attach);
}

/* The kernel's own types (BTF), in which a program's hook is named: programs' names are cut. */
static char *types;

static void read_types(void) {
    FILE *file = fopen("/sys/kernel/btf/vmlinux", "r");
    size_t size = 64 << 20;
    types = malloc(size);
    if (!file || !types || fread(types, 1, size, file) < sizeof(struct btf_header)) {
        perror("/sys/kernel/btf/vmlinux");
        exit(2);
    }
    fclose(file);
}

/* Name of a type, found by walking over those before it (Documentation/bpf/btf.rst). */
static const char *type_name(uint32_t wanted) {
    static const uint8_t fixed[20] = {[BTF_KIND_INT] = 4, [BTF_KIND_ARRAY] = 12, [BTF_KIND_VAR] = 4,
                                      [BTF_KIND_DECL_TAG] = 4};
    static const uint8_t each[20] = {[BTF_KIND_STRUCT] = 12, [BTF_KIND_UNION] = 12,
                                     [BTF_KIND_ENUM] = 8, [BTF_KIND_FUNC_PROTO] = 8,
                                     [BTF_KIND_DATASEC] = 12, [BTF_KIND_ENUM64] = 12};
    struct btf_header *header = (struct btf_header *)types;
    char *at = types + header->hdr_len + header->type_off, *end = at + header->type_len;
    for (uint32_t id = 1; at < end; id++) {
        struct btf_type *type = (struct btf_type *)at;
        uint32_t kind = BTF_INFO_KIND(type->info);
        if (id == wanted) return types + header->hdr_len + header->str_off + type->name_off;
        if (kind >= sizeof fixed) break;
        at += sizeof *type + fixed[kind] + each[kind] * BTF_INFO_VLEN(type->info);
    }
    return NULL;
}

static const char *hook(const struct bpf_prog_info *info) {
    const char *name = info->attach_btf_id ? type_name(info->attach_btf_id) : NULL;
    if (name && !strncmp(name, "btf_trace_", 10)) name += 10;
    if (!name || !*name) name = info->name;
    return *name ? name : "-";
}

static void list(void) {
    union bpf_attr next = {0};
    while (bpf(BPF_PROG_GET_NEXT_ID, &next) == 0) {
        next.start_id = next.next_id;
        union bpf_attr open = {.prog_id = next.next_id};
        int program = bpf(BPF_PROG_GET_FD_BY_ID, &open);
        if (program < 0) continue;
        struct bpf_prog_info info = {0};
        union bpf_attr ask = {0};
        ask.info.bpf_fd = program;
        ask.info.info_len = sizeof info;
        ask.info.info = (uint64_t)(uintptr_t)&info;
        if (bpf(BPF_OBJ_GET_INFO_BY_FD, &ask) == 0)
            printf("%u %s %llu %llu\n", info.id, hook(&info),
                   (unsigned long long)info.run_time_ns, (unsigned long long)info.run_cnt);
        close(program);
    }
    puts(".");
    fflush(stdout);
}

int main(void) {
    read_types();
    union bpf_attr enable = {0};
    enable.enable_stats.type = BPF_STATS_RUN_TIME;
    if (bpf(BPF_ENABLE_STATS, &enable) < 0 || empty() < 0) {
        perror("bpf");
        return 2;
    }
    for (int byte; (byte = getchar()) != EOF;)
        if (byte == '\n') list();
    return 0;
}
