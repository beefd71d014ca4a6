/* The cheapest worker there is: static, without a C library, so that a storm is as fast as the
 * machine's fork and exec. Ends at once, or, if its last argument is `stay`, at the end of its stdin.
 *
 *   cc -O2 -static -nostdlib -ffreestanding -fno-stack-protector worker.c
 */
#if defined(__x86_64__)
enum { READ = 0, EXIT_GROUP = 231 };
static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c)
                     : "rcx", "r11", "memory");
    return result;
}
__asm__(".globl _start\n_start:\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
#elif defined(__aarch64__)
enum { READ = 63, EXIT_GROUP = 94 };
static long call(long number, long a, long b, long c) {
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
}
__asm__(".globl _start\n_start:\n mov x0, sp\n bl begin\n");
#else
#error "add the system calls of this architecture"
#endif

/* `stack` is what the kernel leaves there: argc, then argv (execve(2), the ABI's process start). */
__attribute__((noreturn, used)) void begin(long *stack) {
    const char *last = (const char *)stack[stack[0]];
    char byte;
    if (last[0] == 's' && last[1] == 't' && last[2] == 'a' && last[3] == 'y' && !last[4])
        while (call(READ, 0, (long)&byte, 1) > 0) {}
    for (;;) call(EXIT_GROUP, 0, 0, 0);
}
