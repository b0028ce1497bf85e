/* Dictionaries, arrays and plain values, counted by reference, and UUIDs. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xpc/xpc.h>

enum { ENTRIES_MAX = 64 };

enum kind { DICTIONARY, ARRAY, STRING, UINT64, BOOL, UUID, DATA };

struct xpc_object {
    enum kind kind;
    atomic_int references;
    uint64_t number;
    void *bytes;
    size_t count;
    char *keys[ENTRIES_MAX];
    xpc_object_t values[ENTRIES_MAX];
};

static xpc_object_t make(enum kind kind, const void *bytes, size_t size)
{
    xpc_object_t object = calloc(1, sizeof(*object));
    object->kind = kind;
    object->references = 1;
    if (size) {
        object->bytes = malloc(size);
        memcpy(object->bytes, bytes, size);
    }
    return object;
}

xpc_object_t xpc_retain(xpc_object_t object)
{
    object->references++;
    return object;
}

void xpc_release(xpc_object_t object)
{
    size_t i;
    if (--object->references)
        return;
    for (i = 0; i < object->count; i++) {
        free(object->keys[i]);
        xpc_release(object->values[i]);
    }
    free(object->bytes);
    free(object);
}

static void set(xpc_object_t dictionary, const char *key, xpc_object_t value)
{
    size_t i;
    for (i = 0; i < dictionary->count; i++) {
        if (strcmp(dictionary->keys[i], key) == 0) {
            xpc_release(dictionary->values[i]);
            dictionary->values[i] = value;
            return;
        }
    }
    if (dictionary->count == ENTRIES_MAX)
        abort();
    dictionary->keys[dictionary->count] = strdup(key);
    dictionary->values[dictionary->count++] = value;
}

xpc_object_t xpc_dictionary_get_value(xpc_object_t dictionary, const char *key)
{
    size_t i;
    for (i = 0; i < dictionary->count; i++)
        if (strcmp(dictionary->keys[i], key) == 0)
            return dictionary->values[i];
    return NULL;
}

static xpc_object_t get(xpc_object_t dictionary, const char *key, enum kind kind)
{
    xpc_object_t value = xpc_dictionary_get_value(dictionary, key);
    return value && value->kind == kind ? value : NULL;
}

xpc_object_t xpc_dictionary_create(const char *const *keys, const xpc_object_t *values, size_t count)
{
    (void)keys;
    (void)values;
    return count ? NULL : make(DICTIONARY, NULL, 0);
}

void xpc_dictionary_set_bool(xpc_object_t dictionary, const char *key, bool value)
{
    xpc_object_t object = make(BOOL, NULL, 0);
    object->number = value;
    set(dictionary, key, object);
}

void xpc_dictionary_set_uint64(xpc_object_t dictionary, const char *key, uint64_t value)
{
    xpc_object_t object = make(UINT64, NULL, 0);
    object->number = value;
    set(dictionary, key, object);
}

void xpc_dictionary_set_string(xpc_object_t dictionary, const char *key, const char *value)
{
    set(dictionary, key, xpc_string_create(value));
}

void xpc_dictionary_set_uuid(xpc_object_t dictionary, const char *key, const uuid_t value)
{
    set(dictionary, key, make(UUID, value, sizeof(uuid_t)));
}

bool xpc_dictionary_get_bool(xpc_object_t dictionary, const char *key)
{
    xpc_object_t found = get(dictionary, key, BOOL);
    return found && found->number;
}

uint64_t xpc_dictionary_get_uint64(xpc_object_t dictionary, const char *key)
{
    xpc_object_t found = get(dictionary, key, UINT64);
    return found ? found->number : 0;
}

const char *xpc_dictionary_get_string(xpc_object_t dictionary, const char *key)
{
    xpc_object_t found = get(dictionary, key, STRING);
    return found ? found->bytes : NULL;
}

const uint8_t *xpc_dictionary_get_uuid(xpc_object_t dictionary, const char *key)
{
    xpc_object_t found = get(dictionary, key, UUID);
    return found ? found->bytes : NULL;
}

xpc_object_t xpc_string_create(const char *value)
{
    return make(STRING, value, strlen(value) + 1);
}

xpc_object_t xpc_data_create(const void *bytes, size_t size)
{
    return make(DATA, bytes, size);
}

const void *xpc_data_get_bytes_ptr(xpc_object_t data)
{
    return data->bytes;
}

xpc_object_t xpc_array_create(const xpc_object_t *values, size_t count)
{
    (void)values;
    return count ? NULL : make(ARRAY, NULL, 0);
}

void xpc_array_append_value(xpc_object_t array, xpc_object_t value)
{
    if (array->count == ENTRIES_MAX)
        abort();
    array->values[array->count++] = xpc_retain(value);
}

size_t xpc_array_get_count(xpc_object_t array)
{
    return array->count;
}

xpc_object_t xpc_array_get_value(xpc_object_t array, size_t index)
{
    return index < array->count ? array->values[index] : NULL;
}

const char *xpc_array_get_string(xpc_object_t array, size_t index)
{
    xpc_object_t value = xpc_array_get_value(array, index);
    return value && value->kind == STRING ? value->bytes : NULL;
}

int uuid_parse(const char *text, uuid_t uuid)
{
    int i, read = 0;
    if (strlen(text) != 36)
        return -1;
    for (i = 0; i < 16; i++) {
        if (*text == '-')
            text++;
        if (sscanf(text, "%2hhx%n", &uuid[i], &read) != 1 || read != 2)
            return -1;
        text += 2;
    }
    return *text ? -1 : 0;
}

void uuid_unparse_lower(const uuid_t uuid, char *text)
{
    int i;
    for (i = 0; i < 16; i++)
        text += sprintf(text, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", uuid[i]);
}
