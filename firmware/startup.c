/* Start-up of a Cortex-M whose PUF window stays as the power-up left it.
 *
 * The linker script puts stack, .data and .bss outside of the window, so nothing here writes to it. The stack lies at
 * the very bottom of the SRAM: an overflow is a bus fault, not a write into the window. */
#include "board.h"
#include "protocol.h"

extern uint32_t stack_top, data_start, data_end, data_load, bss_start, bss_end;

/* Not initialised: what stands here at start-up tells whether the SRAM was without power. */
static uint32_t marker[8] __attribute__((section(".marker")));

/* 128 ones of 256 bits. Fresh SRAM matches about half of them, kept SRAM all. */
static const uint32_t MARKER[8] = {0x9E3779B9u, 0x7F4A7C15u, 0x61C88646u, 0x80B583EAu,
                                   0xF39CC060u, 0x5CEDC834u, 0x0C633F9Fu, 0xA31237CBu};

static uint32_t check_marker(void)
{
    uint32_t matching = 0;
    for (unsigned i = 0; i < 8; i++) {
        for (uint32_t same = ~(marker[i] ^ MARKER[i]); same; same &= same - 1)
            matching++;
        ((volatile uint32_t *)marker)[i] = MARKER[i];
    }
    return matching;
}

void reset_handler(void) __attribute__((noreturn));
void reset_handler(void)
{
    uint32_t *from = &data_load;
    for (uint32_t *to = &data_start; to < &data_end;)
        *to++ = *from++;
    for (uint32_t *to = &bss_start; to < &bss_end;)
        *to++ = 0;
    uint32_t remanence = check_marker();
    board_init();
    serve(remanence);
}

/* A fault stops the chip; the host's time-out reports it. */
static void halt(void)
{
    for (;;)
        ;
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    &stack_top, (const void *)reset_handler, (const void *)halt, (const void *)halt,
    (const void *)halt, (const void *)halt, (const void *)halt, 0, 0, 0, 0,
    (const void *)halt, (const void *)halt, 0, (const void *)halt, (const void *)halt};
