/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* json_print.c: prints JSON exactly as qemu-img lays it out, which json-glib's own printer does not. */
#include "front.h"

static void print_node(GString *out, JsonNode *node, unsigned depth);

static void indent(GString *out, unsigned depth)
{
    g_string_append_printf(out, "\n%*s", (int)depth * 4, "");
}

static void print_object(GString *out, JsonObject *object, unsigned depth)
{
    g_autoptr(GList) names = json_object_get_members(object);

    g_string_append_c(out, '{');
    for (GList *l = names; l; l = l->next) {
        g_autoptr(JsonNode) name = json_node_init_string(json_node_alloc(), l->data);

        indent(out, depth + 1);
        print_node(out, name, 0);
        g_string_append(out, ": ");
        print_node(out, json_object_get_member(object, l->data), depth + 1);
        if (l->next)
            g_string_append_c(out, ',');
    }
    if (names)
        indent(out, depth);
    g_string_append_c(out, '}');
}

static void print_array(GString *out, JsonArray *array, unsigned depth)
{
    unsigned length = json_array_get_length(array);

    g_string_append_c(out, '[');
    for (unsigned i = 0; i < length; i++) {
        indent(out, depth + 1);
        print_node(out, json_array_get_element(array, i), depth + 1);
        if (i + 1 < length)
            g_string_append_c(out, ',');
    }
    if (length)
        indent(out, depth);
    g_string_append_c(out, ']');
}

static void print_node(GString *out, JsonNode *node, unsigned depth)
{
    g_autofree char *scalar = NULL;

    if (JSON_NODE_HOLDS_OBJECT(node)) {
        print_object(out, json_node_get_object(node), depth);
    } else if (JSON_NODE_HOLDS_ARRAY(node)) {
        print_array(out, json_node_get_array(node), depth);
    } else {
        scalar = json_to_string(node, FALSE);
        g_string_append(out, scalar);
    }
}

char *report_pretty(JsonNode *node)
{
    GString *out = g_string_new(NULL);

    print_node(out, node, 0);
    g_string_append_c(out, '\n');
    return g_string_free(out, FALSE);
}
