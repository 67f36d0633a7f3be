/* TI Stellaris LM3S6965 evaluation board, also QEMU's machine lm3s6965evb: UART0 on PA0, PA1. */
#include "board.h"

#define RCGC1 0x400FE104u
#define RCGC2 0x400FE108u
#define PORTA_AFSEL 0x40004420u
#define PORTA_DEN 0x4000451Cu
#define UART0 0x4000C000u
#define DR (UART0 + 0x00)
#define FR (UART0 + 0x18)
#define IBRD (UART0 + 0x24)
#define FBRD (UART0 + 0x28)
#define LCRH (UART0 + 0x2C)
#define CTL (UART0 + 0x30)

void board_init(void)
{
    REGISTER(RCGC1) |= 1u; /* UART0 */
    REGISTER(RCGC2) |= 1u; /* port A */
    (void)REGISTER(RCGC2); /* the clock needs some cycles */
    (void)REGISTER(RCGC2);
    REGISTER(PORTA_AFSEL) |= 3u;
    REGISTER(PORTA_DEN) |= 3u;
    REGISTER(CTL) = 0;
    REGISTER(IBRD) = 6; /* 12 MHz internal oscillator / (16 * 115200) = 6.51 */
    REGISTER(FBRD) = 33;
    REGISTER(LCRH) = 0x70; /* 8N1, FIFO */
    REGISTER(CTL) = 0x301;
}

uint8_t board_receive(void)
{
    while (REGISTER(FR) & 0x10u) /* RXFE */
        ;
    return (uint8_t)REGISTER(DR);
}

void board_send(uint8_t byte)
{
    while (REGISTER(FR) & 0x20u) /* TXFF */
        ;
    REGISTER(DR) = byte;
}
