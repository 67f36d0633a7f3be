/* Frames (COBS, CRC-32) and the four requests. */
#include "protocol.h"

#include "board.h"

extern uint8_t window_start[], window_end[];

static uint8_t frame[MAX_FRAME + 1];
static uint32_t readings; /* finished since start-up */
static uint32_t wiped;

/* CRC-32 of IEEE 802.3, as zlib computes it. */
static uint32_t crc32(const uint8_t *data, unsigned length)
{
    uint32_t crc = 0xFFFFFFFFu;
    while (length--) {
        crc ^= *data++;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0xEDB88320u & -(crc & 1u));
    }
    return ~crc;
}

static void put32(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t get32(const uint8_t *from)
{
    return from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

/* The next frame, decoded into `frame`; its length, or 0 for what is none. */
static unsigned receive(void)
{
    unsigned length = 0, left = 0, full = 1, bad = 0;
    for (;;) {
        uint8_t byte = board_receive();
        if (byte == 0)
            break;
        if (left == 0) {
            /* A code byte: the zero that ended the block before it, unless that block was a full one. */
            if (!full && length < sizeof frame)
                frame[length++] = 0;
            left = byte - 1u;
            full = byte == 0xFF;
        } else {
            left--;
            if (length < sizeof frame)
                frame[length++] = byte;
        }
        if (length == sizeof frame)
            bad = 1;
    }
    if (bad || left || length < HEADER + TRAILER)
        return 0;
    return crc32(frame, length - TRAILER) == get32(frame + length - TRAILER) ? length : 0;
}

/* Send `frame`, whose header and payload stand, as one COBS frame between two zeros. At most 199 bytes: no block is full. */
static void send(unsigned length)
{
    put32(frame + length, crc32(frame, length));
    length += TRAILER;
    board_send(0);
    for (unsigned start = 0; start <= length;) {
        unsigned end = start;
        while (end < length && frame[end])
            end++;
        board_send((uint8_t)(end - start + 1));
        while (start < end)
            board_send(frame[start++]);
        start = end + 1;
    }
    board_send(0);
}

static unsigned refuse(enum refusal why)
{
    frame[1] = REFUSED;
    frame[HEADER] = (uint8_t)why;
    return 1;
}

static unsigned identify(uint8_t *payload)
{
    static const char name[8] = "unclone";
    for (int i = 0; i < 8; i++)
        payload[i] = (uint8_t)name[i];
    payload[8] = FIRMWARE_MAJOR;
    payload[9] = FIRMWARE_MINOR;
    return 10;
}

static unsigned describe(uint8_t *payload, uint32_t remanence)
{
    put32(payload, (uint32_t)(uintptr_t)window_start);
    put32(payload + 4, (uint32_t)(window_end - window_start));
    put32(payload + 8, readings);
    put32(payload + 12, wiped);
    put32(payload + 16, remanence);
    put32(payload + 20, MAX_DATA);
    return 24;
}

static unsigned read_window(uint8_t *payload, unsigned length)
{
    if (length != 8)
        return refuse(BAD_RANGE);
    uint32_t offset = get32(payload), count = get32(payload + 4), size = (uint32_t)(window_end - window_start);
    if (wiped)
        return refuse(WIPED);
    if (count > MAX_DATA || offset > size || count > size - offset)
        return refuse(BAD_RANGE);
    for (uint32_t i = 0; i < count; i++)
        payload[4 + i] = window_start[offset + i];
    return 4 + count;
}

/* The host has its reading; with a 1, no later program of this power-up may read the window. */
static unsigned finish(uint8_t *payload, unsigned length)
{
    readings++;
    if (length == 1 && payload[0] == 1) {
        for (volatile uint8_t *cell = window_start; cell < window_end; cell++)
            *cell = 0;
        wiped = 1;
    }
    return 0;
}

void serve(uint32_t remanence)
{
    for (;;) {
        unsigned length = receive();
        if (length == 0)
            continue;
        uint8_t type = frame[1], *payload = frame + HEADER;
        unsigned given = length - HEADER - TRAILER, answer;
        frame[1] = type | ANSWER;
        if (frame[0] != PROTOCOL_VERSION)
            answer = refuse(OTHER_VERSION);
        else if (type == IDENTIFY)
            answer = identify(payload);
        else if (type == DESCRIBE)
            answer = describe(payload, remanence);
        else if (type == READ)
            answer = read_window(payload, given);
        else if (type == FINISH)
            answer = finish(payload, given);
        else
            answer = refuse(UNKNOWN_REQUEST);
        frame[0] = PROTOCOL_VERSION;
        send(HEADER + answer);
    }
}
