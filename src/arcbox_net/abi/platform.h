/* Which system this is compiled for. ABX_STANDIN: as if for macOS, on Linux, against tests/standin. */
#ifndef ARCBOX_NET_PLATFORM_H
#define ARCBOX_NET_PLATFORM_H

#if defined(__APPLE__) || defined(ABX_STANDIN)
#define ABX_MACOS 1
#else
#define ABX_MACOS 0
#endif

#endif
