/* ST NUCLEO-F401RE (RM0368): USART2 on PA2, PA3, which the on-board debugger shows as a USB serial port. */
#include "board.h"

#define RCC 0x40023800u
#define RCC_AHB1ENR (RCC + 0x30)
#define RCC_APB1ENR (RCC + 0x40)
#define GPIOA_MODER 0x40020000u
#define GPIOA_AFRL 0x40020020u
#define USART2 0x40004400u
#define SR (USART2 + 0x00)
#define DR (USART2 + 0x04)
#define BRR (USART2 + 0x08)
#define CR1 (USART2 + 0x0C)

void board_init(void)
{
    REGISTER(RCC_AHB1ENR) |= 1u;       /* GPIOA */
    REGISTER(RCC_APB1ENR) |= 1u << 17; /* USART2 */
    (void)REGISTER(RCC_APB1ENR);       /* errata: two cycles before the first access */
    REGISTER(GPIOA_MODER) = (REGISTER(GPIOA_MODER) & ~0xF0u) | 0xA0u;
    REGISTER(GPIOA_AFRL) = (REGISTER(GPIOA_AFRL) & ~0xFF00u) | 0x7700u;
    REGISTER(BRR) = 139; /* 16 MHz internal oscillator / 115200 */
    REGISTER(CR1) = (1u << 13) | (1u << 3) | (1u << 2);
}

uint8_t board_receive(void)
{
    while (!(REGISTER(SR) & (1u << 5))) /* RXNE */
        ;
    return (uint8_t)REGISTER(DR);
}

void board_send(uint8_t byte)
{
    while (!(REGISTER(SR) & (1u << 7))) /* TXE */
        ;
    REGISTER(DR) = byte;
}
