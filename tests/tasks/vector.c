/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes that hold values in all vector registers, yield to each other, and look whether the registers are still theirs. The
 * registers are set, held over raw system calls and read in one piece of assembly, so no library has a part in it.
 * Prints {"bytes": 64 or 32, "yields": n, "wrong": n}.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROCESSES = 3, YIELDS = 40, REGISTERS = 32, YMM_REGISTERS = 16 };

static volatile sig_atomic_t handled;

static void on_signal(int number) {
    /* Dirty vector registers in a handler: the frame has to bring the interrupted ones back. */
    asm volatile("vpcmpeqd %%ymm9, %%ymm9, %%ymm9" ::: "xmm9");
    handled += number != 0;
}

static int wide(uint8_t value) {
    uint8_t in[64] __attribute__((aligned(64))), out[REGISTERS][64] __attribute__((aligned(64)));
    int wrong = 0;
    memset(in, value, sizeof in);
    for (int i = 0; i < YIELDS; i++) {
        long call = 24;
        asm volatile(
            "vmovdqa64 %[in], %%zmm0\n"
            ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
            "vmovdqa64 %%zmm0, %%zmm\\n\n"
            ".endr\n"
            "syscall\n"
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
            "vmovdqa64 %%zmm\\n, (\\n * 64)(%[out])\n"
            ".endr\n"
            "vzeroupper"
            : "+a"(call)
            : [in] "m"(in), [out] "r"(out)
            : "rcx", "r11", "memory");
        for (int r = 0; r < REGISTERS; r++)
            wrong += memcmp(out[r], in, sizeof in) != 0;
    }
    return wrong;
}

static int narrow(uint8_t value) {
    uint8_t in[32] __attribute__((aligned(32))), out[YMM_REGISTERS][32] __attribute__((aligned(32)));
    int wrong = 0;
    memset(in, value, sizeof in);
    for (int i = 0; i < YIELDS; i++) {
        long call = 24;
        asm volatile(
            "vmovdqa %[in], %%ymm0\n"
            ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
            "vmovdqa %%ymm0, %%ymm\\n\n"
            ".endr\n"
            "syscall\n"
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
            "vmovdqa %%ymm\\n, (\\n * 32)(%[out])\n"
            ".endr\n"
            "vzeroupper"
            : "+a"(call)
            : [in] "m"(in), [out] "r"(out)
            : "rcx", "r11", "memory");
        for (int r = 0; r < YMM_REGISTERS; r++)
            wrong += memcmp(out[r], in, sizeof in) != 0;
    }
    return wrong;
}

/* A register held while a signal is handled. */
static int over_a_signal(uint8_t value) {
    uint8_t in[32] __attribute__((aligned(32))), out[32] __attribute__((aligned(32)));
    long call = 62, pid = getpid(), number = SIGUSR1;
    memset(in, value, sizeof in);
    asm volatile("vmovdqa %[in], %%ymm9\n syscall\n vmovdqa %%ymm9, %[out]\n vzeroupper"
                 : "+a"(call), [out] "=m"(out)
                 : [in] "m"(in), "D"(pid), "S"(number)
                 : "rcx", "r11", "memory");
    return memcmp(in, out, sizeof in) != 0 || handled != 1;
}

int main(void) {
    int wrong = 0, is_wide = __builtin_cpu_supports("avx512f");
    if (!__builtin_cpu_supports("avx2")) {
        fputs("this processor has no AVX2: there is nothing to look at\n", stderr);
        return 1;
    }
    signal(SIGUSR1, on_signal);
    for (int p = 0; p < PROCESSES; p++)
        if (fork() == 0) {
            uint8_t value = 0x11 * (p + 1);
            int bad = (is_wide ? wide(value) : narrow(value)) + over_a_signal(value);
            _exit(bad > 200 ? 200 : bad);
        }
    for (int p = 0; p < PROCESSES; p++) {
        int status;
        wait(&status);
        wrong += WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
    }
    printf("{\"bytes\": %d, \"yields\": %d, \"wrong\": %d}\n", is_wide ? 64 : 32, PROCESSES * YIELDS, wrong);
    return 0;
}
