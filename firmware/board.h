/* What a board must offer. */
#ifndef UNCLONE_BOARD_H
#define UNCLONE_BOARD_H

#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(address))

void board_init(void);          /* clocks, pins, UART at 115200 8N1; without the window */
uint8_t board_receive(void);    /* wait for one byte */
void board_send(uint8_t byte);  /* wait for room, send one byte */

#endif
