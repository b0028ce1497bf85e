/* UUIDs as macOS has them. uuid.c is behind it. */
#ifndef STANDIN_UUID_H
#define STANDIN_UUID_H

typedef unsigned char uuid_t[16];
typedef char uuid_string_t[37];

int uuid_parse(const char *text, uuid_t uuid);
void uuid_unparse_lower(const uuid_t uuid, char *text);

#endif
