/* The part of XPC's objects that ports/vmnet uses, with the same names and types. xpc.c is behind it. */
#ifndef STANDIN_XPC_H
#define STANDIN_XPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uuid/uuid.h>

typedef struct xpc_object *xpc_object_t;

xpc_object_t xpc_retain(xpc_object_t object);
void xpc_release(xpc_object_t object);

xpc_object_t xpc_dictionary_create(const char *const *keys, const xpc_object_t *values, size_t count);
void xpc_dictionary_set_bool(xpc_object_t dictionary, const char *key, bool value);
void xpc_dictionary_set_uint64(xpc_object_t dictionary, const char *key, uint64_t value);
void xpc_dictionary_set_string(xpc_object_t dictionary, const char *key, const char *value);
void xpc_dictionary_set_uuid(xpc_object_t dictionary, const char *key, const uuid_t value);
xpc_object_t xpc_dictionary_get_value(xpc_object_t dictionary, const char *key);
bool xpc_dictionary_get_bool(xpc_object_t dictionary, const char *key);
uint64_t xpc_dictionary_get_uint64(xpc_object_t dictionary, const char *key);
const char *xpc_dictionary_get_string(xpc_object_t dictionary, const char *key);
const uint8_t *xpc_dictionary_get_uuid(xpc_object_t dictionary, const char *key);

xpc_object_t xpc_string_create(const char *value);
xpc_object_t xpc_data_create(const void *bytes, size_t size);
const void *xpc_data_get_bytes_ptr(xpc_object_t data);
xpc_object_t xpc_array_create(const xpc_object_t *values, size_t count);
void xpc_array_append_value(xpc_object_t array, xpc_object_t value);
size_t xpc_array_get_count(xpc_object_t array);
xpc_object_t xpc_array_get_value(xpc_object_t array, size_t index);
const char *xpc_array_get_string(xpc_object_t array, size_t index);

#endif
