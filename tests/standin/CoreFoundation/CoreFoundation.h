/* What ends the life of a network object. */
#ifndef STANDIN_CORE_FOUNDATION_H
#define STANDIN_CORE_FOUNDATION_H

typedef const void *CFTypeRef;

void CFRelease(CFTypeRef object);

#endif
